"""PURE. What the initiator knows of SCSI: CDBs that it builds, sense and Data-In that it parses (SPC-4, SBC-3)."""
