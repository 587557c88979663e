/* The smallest iSCSI target that the clients of the benchmark take: what a target costs that has no disk.
 *
 * It answers a login with the same words whatever was asked, every READ with zeros, every WRITE with GOOD, and looks at
 * nothing that it need not. One thread; all that one recv brought is answered by one sendmsg. RFC 7143's offsets.
 *
 * usage: null_target SIZE_IN_MIB; prints "ready PORT" and serves until SIGTERM.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BHS = 48, SECTOR = 512, SEGMENT = 262144, BUFFER = 1 << 20, PIECES = 512, PEERS = 256, TASKS = 1024 };
enum { WINDOW = 128 };

struct peer {
    uint8_t *buffer;
    size_t fill, skip;           /* bytes in the buffer; bytes of data still to come and be passed over */
    uint32_t stat_sn, exp_cmd_sn;
    int digests, full_feature, closing;
    struct { uint32_t tag, expected, received; } tasks[TASKS];
};

static struct pollfd polled[PEERS];
static struct peer *peers[PEERS];
static int peer_count = 1;
static uint64_t sectors;

/* What one pass answers: headers and small data in `room`, zeros from `zeros`. */
static struct iovec pieces[PIECES];
static uint8_t room[PIECES][BHS];
static uint8_t zeros[SEGMENT] __attribute__((aligned(4096)));
static int piece_count;

static void put32(uint8_t *at, uint32_t value) { value = htonl(value); memcpy(at, &value, 4); }
static uint32_t get32(const uint8_t *at) { uint32_t value; memcpy(&value, at, 4); return ntohl(value); }
static uint32_t get24(const uint8_t *at) { return (uint32_t)at[0] << 16 | at[1] << 8 | at[2]; }

static uint32_t crc32c(const uint8_t *data, size_t count) {
    uint32_t value = ~0u;
    while (count--) {
        value ^= *data++;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0x82F63B78u : 0);
    }
    return ~value;
}

static uint32_t crc_of_zeros(uint32_t count) {
    static uint32_t counts[8], values[8];
    int slot = 0;
    while (slot < 7 && counts[slot] && counts[slot] != count) slot++;
    if (counts[slot] != count) { counts[slot] = count; values[slot] = crc32c(zeros, count); }
    return values[slot];
}

static void flush(int fd) {
    struct iovec *from = pieces;
    while (piece_count) {
        struct msghdr message = { .msg_iov = from, .msg_iovlen = piece_count };
        ssize_t sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        if (sent < 0) { piece_count = 0; return; }
        while (piece_count && (size_t)sent >= from->iov_len) { sent -= from->iov_len; from++; piece_count--; }
        if (sent) { from->iov_base = (uint8_t *)from->iov_base + sent; from->iov_len -= sent; }
    }
}

static uint8_t *piece(int fd, size_t length) {
    if (piece_count > PIECES - 4) flush(fd);
    uint8_t *at = memset(room[piece_count], 0, BHS);
    pieces[piece_count++] = (struct iovec){ at, length };
    return at;
}

static uint8_t *header(int fd, struct peer *peer, uint8_t opcode, uint8_t flags, const uint8_t *request, int numbered) {
    uint8_t *at = piece(fd, BHS);
    at[0] = opcode;
    at[1] = flags;
    memcpy(at + 16, request + 16, 4);
    put32(at + 20, ~0u);
    put32(at + 24, numbered ? peer->stat_sn++ : peer->stat_sn);
    put32(at + 28, peer->exp_cmd_sn);
    put32(at + 32, peer->exp_cmd_sn + WINDOW - 1);
    return at;
}

static void digest(int fd, struct peer *peer, uint32_t crc) {
    if (!peer->digests) return;
    uint8_t *at = piece(fd, 4);
    for (int byte = 0; byte < 4; byte++) at[byte] = crc >> 8 * byte;
}

/* Data-In of zeros with the status in the last one. */
static void data_in(int fd, struct peer *peer, const uint8_t *request, uint32_t length) {
    uint32_t number = 0;
    for (uint32_t offset = 0; offset < length;) {
        uint32_t count = length - offset < SEGMENT ? length - offset : SEGMENT;
        int last = offset + count == length;
        uint8_t *at = header(fd, peer, 0x25, last ? 0x81 : 0x80, request, last);
        put32(at + 4, count);
        put32(at + 36, number++);
        put32(at + 40, offset);
        pieces[piece_count++] = (struct iovec){ zeros, count };
        digest(fd, peer, crc_of_zeros(count));
        offset += count;
    }
}

/* A short answer that is not zeros; `text` has `count` bytes, as many of them as were asked for are sent. */
static void short_data_in(int fd, struct peer *peer, const uint8_t *request, const uint8_t *text, uint32_t count) {
    uint32_t asked = get32(request + 20);
    if (count > asked) count = asked;
    if (count > BHS) count = BHS;
    if (!count) { header(fd, peer, 0x21, 0x80, request, 1); return; }
    uint8_t *at = header(fd, peer, 0x25, asked > count ? 0x83 : 0x81, request, 1);
    put32(at + 4, count);
    put32(at + 44, asked - count);
    uint8_t *data = piece(fd, (count + 3) & ~3u);
    memcpy(data, text, count);
    digest(fd, peer, crc32c(data, (count + 3) & ~3u));
}

static void inform(int fd, struct peer *peer, const uint8_t *request, const uint8_t *cdb) {
    uint8_t text[BHS] = { 0 };
    switch (cdb[0]) {
    case 0x12: /* INQUIRY: a direct access device of SPC-4; of the VPD pages only the list of them */
        if (cdb[1] & 1) { text[3] = 1; short_data_in(fd, peer, request, text, 5); return; }
        text[2] = 6; text[3] = 2; text[4] = 31;
        memcpy(text + 8, "csvd    null            0   ", 28);
        short_data_in(fd, peer, request, text, 36);
        return;
    case 0x25: /* READ CAPACITY(10) */
        put32(text, sectors - 1); put32(text + 4, SECTOR);
        short_data_in(fd, peer, request, text, 8);
        return;
    case 0x9E: /* READ CAPACITY(16) */
        put32(text, (sectors - 1) >> 32); put32(text + 4, sectors - 1); put32(text + 8, SECTOR);
        short_data_in(fd, peer, request, text, 32);
        return;
    case 0xA0: /* REPORT LUNS: LUN 0 */
        text[3] = 8;
        short_data_in(fd, peer, request, text, 16);
        return;
    case 0x1A: /* MODE SENSE(6): no pages */
        text[0] = 3;
        short_data_in(fd, peer, request, text, 4);
        return;
    default:
        header(fd, peer, 0x21, 0x80, request, 1);
    }
}

/* What a WRITE is answered by when a sequence of its data has ended: R2T for the next burst, or GOOD. */
static void written(int fd, struct peer *peer, const uint8_t *request, uint32_t number) {
    uint32_t slot = get32(request + 16) % TASKS;
    uint32_t rest = peer->tasks[slot].expected - peer->tasks[slot].received;
    if (!rest) { header(fd, peer, 0x21, 0x80, request, 1); return; }
    uint8_t *at = header(fd, peer, 0x31, 0x80, request, 0);
    put32(at + 20, 1);
    put32(at + 36, number);
    put32(at + 40, peer->tasks[slot].received);
    put32(at + 44, rest < SEGMENT ? rest : SEGMENT);
}

static void log_in(int fd, struct peer *peer, const uint8_t *request, const char *text, uint32_t length) {
    static const char security[] = "AuthMethod=None\0TargetPortalGroupTag=1";
    char keys[512];
    int is_security = (request[1] & 0x0C) == 0, wants_digest = 0;
    for (uint32_t at = 0; at + 17 < length; at++) wants_digest |= !memcmp(text + at, "DataDigest=CRC32C", 17);
    peer->digests = wants_digest && !memmem(text, length, "DataDigest=None", 15);
    int count = snprintf(keys, sizeof keys,
        "TargetPortalGroupTag=1%cHeaderDigest=None%cDataDigest=%s%cInitialR2T=No%cImmediateData=Yes%c"
        "MaxRecvDataSegmentLength=%d%cMaxBurstLength=%d%cFirstBurstLength=%d%cDefaultTime2Wait=2%c"
        "DefaultTime2Retain=0%cMaxOutstandingR2T=1%cMaxConnections=1%cErrorRecoveryLevel=0%c"
        "DataPDUInOrder=Yes%cDataSequenceInOrder=Yes%c",
        0, 0, peer->digests ? "CRC32C" : "None", 0, 0, 0, SEGMENT, 0, SEGMENT, 0, SEGMENT, 0, 0, 0, 0, 0, 0, 0, 0);
    const char *answer = is_security ? security : keys;
    uint32_t size = is_security ? sizeof security : (uint32_t)count;
    peer->exp_cmd_sn = get32(request + 24);
    uint8_t *at = header(fd, peer, 0x23, request[1], request, 1);
    put32(at + 4, size);
    memcpy(at + 8, request + 8, 6);
    put32(at + 20, 0);
    at[15] = 1;
    for (uint32_t done = 0; done < size; done += BHS) {
        uint32_t part = size - done < BHS ? size - done : BHS;
        memcpy(piece(fd, (part + 3) & ~3u), answer + done, part);
    }
    peer->full_feature = (request[1] & 0x83) == 0x83;
}

static void command(int fd, struct peer *peer, const uint8_t *request, uint32_t immediate) {
    const uint8_t *cdb = request + 32;
    uint32_t expected = get32(request + 20), slot = get32(request + 16) % TASKS;
    if (request[1] & 0x20) { /* W */
        peer->tasks[slot].expected = expected;
        peer->tasks[slot].received = immediate;
        if (request[1] & 0x80) written(fd, peer, request, 0);
    } else if (cdb[0] == 0x88 || cdb[0] == 0x28 || cdb[0] == 0xA8 || cdb[0] == 0x08) {
        data_in(fd, peer, request, expected);
    } else {
        inform(fd, peer, request, cdb);
    }
}

static void take(int fd, struct peer *peer, const uint8_t *request, uint32_t length) {
    uint8_t opcode = request[0] & 0x3F;
    if (opcode == 0x01 && !(request[0] & 0x40)) peer->exp_cmd_sn++;
    if (opcode == 0x01) command(fd, peer, request, length);
    else if (opcode == 0x05) {
        uint32_t slot = get32(request + 16) % TASKS;
        peer->tasks[slot].received += length;
        if (request[1] & 0x80) written(fd, peer, request, peer->tasks[slot].received / SEGMENT);
    } else if (opcode == 0x00) {
        if (get32(request + 16) != ~0u) header(fd, peer, 0x20, 0x80, request, 1);
    } else if (opcode == 0x02) header(fd, peer, 0x22, 0x80, request, 1);
    else if (opcode == 0x06) { put32(header(fd, peer, 0x26, 0x80, request, 1) + 20, 0); peer->closing = 1; }
}

/* Take all that is complete; keep the beginning of a header, pass over data. */
static void parse(int fd, struct peer *peer) {
    size_t at = 0;
    for (;;) {
        size_t passed = peer->skip < peer->fill - at ? peer->skip : peer->fill - at;
        peer->skip -= passed;
        at += passed;
        if (peer->skip || peer->fill - at < BHS) break;
        uint8_t *request = peer->buffer + at;
        uint32_t length = get24(request + 5), padded = (length + 3) & ~3u;
        if (!peer->full_feature) { /* the text is needed: wait for it */
            if (peer->fill - at < BHS + padded) break;
            log_in(fd, peer, request, (char *)request + BHS, length);
        } else {
            if (length && peer->digests) padded += 4;
            /* A command is answered when its data is there: an answer overtakes nothing that the client sends. */
            if (padded > peer->fill - at - BHS && padded + BHS <= BUFFER) break;
            take(fd, peer, request, length);
        }
        at += BHS;
        peer->skip = padded;
    }
    memmove(peer->buffer, peer->buffer + at, peer->fill - at);
    peer->fill -= at;
    flush(fd);
}

static void drop(int slot) {
    close(polled[slot].fd);
    free(peers[slot]->buffer);
    free(peers[slot]);
    polled[slot] = polled[--peer_count];
    peers[slot] = peers[peer_count];
}

static void welcome(int listener) {
    int fd = accept(listener, NULL, NULL), on = 1;
    if (fd < 0 || peer_count == PEERS) { if (fd >= 0) close(fd); return; }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    struct peer *peer = calloc(1, sizeof *peer);
    if (!peer || !(peer->buffer = aligned_alloc(4096, BUFFER))) abort();
    polled[peer_count] = (struct pollfd){ .fd = fd, .events = POLLIN };
    peers[peer_count++] = peer;
}

int main(int count, char **words) {
    struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
    socklen_t size = sizeof address;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    if (count != 2 || (sectors = strtoull(words[1], NULL, 10) * (1048576 / SECTOR)) == 0) return 2;
    if (bind(listener, (struct sockaddr *)&address, size) || listen(listener, 128)) { perror("listen"); return 1; }
    if (getsockname(listener, (struct sockaddr *)&address, &size)) { perror("getsockname"); return 1; }
    printf("ready %d\n", ntohs(address.sin_port));
    fflush(stdout);
    polled[0] = (struct pollfd){ .fd = listener, .events = POLLIN };
    for (;;) {
        if (poll(polled, peer_count, -1) < 0 && errno != EINTR) { perror("poll"); return 1; }
        for (int slot = peer_count - 1; slot > 0; slot--) {
            if (!polled[slot].revents) continue;
            struct peer *peer = peers[slot];
            ssize_t got = recv(polled[slot].fd, peer->buffer + peer->fill, BUFFER - peer->fill, 0);
            if (got > 0) { peer->fill += got; parse(polled[slot].fd, peer); }
            if (got <= 0 || peer->closing) drop(slot);
        }
        if (polled[0].revents) welcome(listener);
    }
}
