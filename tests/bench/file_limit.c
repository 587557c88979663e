/* What the file side alone can do: random pread or pwrite of whole blocks on one file, one after another, no network.
 *
 * usage: file_limit read|write FILE BLOCK_BYTES SECONDS; prints "REQUESTS requests in SECONDS s".
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec / 1e9;
}

int main(int count, char **words) {
    if (count != 5) return 2;
    int writes = !strcmp(words[1], "write"), fd = open(words[2], writes ? O_RDWR : O_RDONLY);
    size_t block = strtoull(words[3], NULL, 10);
    double seconds = strtod(words[4], NULL);
    struct stat status;
    char *buffer = aligned_alloc(4096, (block + 4095) & ~4095ul);
    if (fd < 0 || !buffer || fstat(fd, &status) || !block || (uint64_t)status.st_size < block) { perror(words[2]); return 1; }
    memset(buffer, 0x5A, block);
    uint64_t slots = status.st_size / block, random = 88172645463325252u, done = 0;
    double begin = now(), end = begin;
    do {
        for (int turn = 0; turn < 16; turn++) {
            random ^= random << 13; random ^= random >> 7; random ^= random << 17;
            off_t offset = (off_t)(random % slots * block);
            ssize_t moved = writes ? pwrite(fd, buffer, block, offset) : pread(fd, buffer, block, offset);
            if (moved != (ssize_t)block) { perror(words[2]); return 1; }
        }
        done += 16;
        end = now();
    } while (end < begin + seconds);
    printf("%llu requests in %.6f s\n", (unsigned long long)done, end - begin);
    return 0;
}
