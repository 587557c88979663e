"""Live migration: the memory of a running guest is copied page by page to another node, then the guest is handed over.

Who does what: `precopy` (PURE) decides, `outgoing` carries out its tasks at the source, `incoming` receives at the
destination, `source` and `destination` are the services of a node. `tracker` finds what the guest has written, `sender`
sends it as the stream of `chunks` (PURE), `receiver` puts it in place with the `decoder` (PURE); `image` is the memory.
`handover` is about the one thing that decides who runs the guest: its record (owner, epoch) in the cluster's register.

A hand-over is one compare-and-set of (source, E) to (destination, E+1), submitted when the destination has said that
every byte is in place, that the digests are equal, and that its paused guest is ready. When something breaks:

| what breaks                        | source                                 | destination                            |
|------------------------------------|----------------------------------------|----------------------------------------|
| setup, rounds: destination, link,  | the guest goes on; failed              | throws its copy away                   |
| disk full, damaged stream, silence |                                        |                                        |
| cancel before the submit           | the guest goes on; cancelled           | throws its copy away on ABORT          |
| guest dies in a round              | stopped there, with the reason         | throws its copy away                   |
| guest dies after its last write    | the migration goes on                  | adopts it                              |
| guest does not stop in time        | is told to go on; failed               | throws its copy away                   |
| link lost after READY, before      | the guest goes on; failed              | waits, makes the move impossible by    |
| submit                             |                                        | (source, E) -> (source, E+1), throws   |
| source's daemon dies before submit | guest stopped with the daemon's end    | the same                               |
| submit refused                     | reads the record: still (source, E),   | throws its copy away on ABORT          |
|                                    | nothing under way: the guest goes on   |                                        |
| submit unknown, destination there  | paused; reads, submits again until the | paused until the register names it     |
|                                    | record has decided                     |                                        |
| submit unknown, destination lost   | paused; (source, E) -> (source, E+1),  | runs only if the move won; else throws |
|                                    | whichever is carried out first wins    |                                        |
| source's daemon dies after submit  | deletes its image when it is back      | adopts when the register names it      |
| destination's daemon dies after    | ends its guest; completed, not         | back again: stopped, whole image, can  |
| submit                             | confirmed                              | be started                             |
| destination's guest does not start | ends its guest; completed, with note   | stopped, whole image, can be started   |
| register names a third node, or    | ends its guest; failed                 | throws its copy away                   |
| none                               |                                        |                                        |
"""
