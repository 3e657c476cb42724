/* Load on one HTTP/1.1 server by two client keys in turn, in phases of milliseconds, so that what disturbs the machine
 * disturbs both alike. Asks on kept-alive connections, each for one answer at a time; answers must say their length.
 *
 *   phases PORT PATH BODY-FILE KEY-A KEY-B CONNECTIONS PHASE-MS SECONDS PID...
 *
 * Keys take turns as A B B A. One line a phase: key (0, 1), requests, nanoseconds, and CPU nanoseconds that the processes
 * took. A phase ends when the last of its answers is there. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MOST_CONNECTIONS = 256, MOST_PIDS = 64, BUFFER = 65536, WARM_UP = 40 };

struct connection { int fd; size_t have; char buffer[BUFFER]; };
static struct connection connections[MOST_CONNECTIONS];
static char *requests[2];
static size_t sizes[2];

static void die(const char *why) { fprintf(stderr, "phases: %s\n", why); exit(1); }

static long long now(clockid_t clock) {
    struct timespec at;
    if (clock_gettime(clock, &at)) die("a process whose time is taken is gone");
    return at.tv_sec * 1000000000LL + at.tv_nsec;
}

static long long cpu(char **pids, int count) {
    long long sum = 0;
    for (int i = 0; i < count; i++) {
        clockid_t clock;
        if (clock_getcpuclockid(atoi(pids[i]), &clock)) die("a process whose time is to be taken is not there");
        sum += now(clock);
    }
    return sum;
}

static void ask(struct connection *one, int key) {
    one->have = 0;
    if (write(one->fd, requests[key], sizes[key]) != (ssize_t)sizes[key]) die("a request could not be written whole");
}

/* Whether the answer is whole. */
static int hear(struct connection *one) {
    ssize_t got = read(one->fd, one->buffer + one->have, BUFFER - 1 - one->have);
    if (got <= 0) die("a connection was closed");
    one->have += got;
    one->buffer[one->have] = 0;
    char *end = strstr(one->buffer, "\r\n\r\n");
    if (!end) return 0;
    if (strncmp(one->buffer, "HTTP/1.1 200", 12)) die(one->buffer);
    char *length = strcasestr(one->buffer, "\r\ncontent-length:");
    if (!length || length > end) die("an answer does not say its length");
    return one->have >= (size_t)(end + 4 - one->buffer) + strtoul(length + 17, NULL, 10);
}

int main(int argc, char **argv) {
    if (argc < 10) die("PORT PATH BODY-FILE KEY-A KEY-B CONNECTIONS PHASE-MS SECONDS PID...");
    int count = atoi(argv[6]), pids = argc - 9;
    long long phase = atoll(argv[7]) * 1000000, whole = atoll(argv[8]) * 1000000000LL;
    if (count < 1 || count > MOST_CONNECTIONS || pids > MOST_PIDS) die("too many connections or processes");
    static char body[BUFFER];
    FILE *file = fopen(argv[3], "rb");
    if (!file) die("the body's file cannot be read");
    size_t length = fread(body, 1, sizeof body, file);
    fclose(file);
    for (int key = 0; key < 2; key++) {
        requests[key] = malloc(length + 1024);
        sizes[key] = sprintf(requests[key],
            "POST %s HTTP/1.1\r\nhost: 127.0.0.1\r\nauthorization: Bearer %s\r\ncontent-type: application/json\r\n"
            "content-length: %zu\r\n\r\n", argv[2], argv[4 + key], length);
        memcpy(requests[key] + sizes[key], body, length);
        sizes[key] += length;
    }
    int poll = epoll_create1(0), yes = 1;
    for (int i = 0; i < count; i++) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(atoi(argv[1]))};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        struct epoll_event event = {.events = EPOLLIN, .data.ptr = &connections[i]};
        connections[i].fd = socket(AF_INET, SOCK_STREAM, 0);
        if (connect(connections[i].fd, (struct sockaddr *)&to, sizeof to)) die("cannot connect");
        setsockopt(connections[i].fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
        epoll_ctl(poll, EPOLL_CTL_ADD, connections[i].fd, &event);
    }
    long long start = now(CLOCK_MONOTONIC);
    for (int turn = 0; now(CLOCK_MONOTONIC) - start < whole || turn % 4; turn++) {
        int key = turn % 4 == 1 || turn % 4 == 2, open = count;
        long done = 0;
        long long used = cpu(argv + 9, pids), began = now(CLOCK_MONOTONIC), until = began + phase, at = began;
        for (int i = 0; i < count; i++) ask(&connections[i], key);
        while (open) {
            struct epoll_event events[MOST_CONNECTIONS];
            int ready = epoll_wait(poll, events, MOST_CONNECTIONS, 30000);
            if (ready <= 0) die("no answer for 30 seconds");
            at = now(CLOCK_MONOTONIC);
            for (int i = 0; i < ready; i++) {
                if (!hear(events[i].data.ptr)) continue;
                done++;
                if (at < until) ask(events[i].data.ptr, key); else open--;
            }
        }
        if (turn >= WARM_UP) printf("%d %ld %lld %lld\n", key, done, at - began, cpu(argv + 9, pids) - used);
    }
    return 0;
}
