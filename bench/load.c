/* A closed-loop load client: one thread, epoll, keep-alive; each connection sends the same request again and again.
 *
 * usage: load PORT CONNECTIONS SECONDS REQUEST_FILE
 *
 * REQUEST_FILE holds one whole HTTP request. Starts are spread over one second when the answers are streams. Every answer
 * is checked: 200, and "usage" in it (plain) or [DONE] (stream). Prints one line of JSON: answers, failures, chunks,
 * latencies in microseconds (p50, p99; a stream's is that of its first chunk), and how late chunks came after the mock had
 * sent them ("t" in each, same clock).
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { BUFFER = 512 * 1024, MAX = 4096 };

struct connection {
  int fd, is_busy, has_first, is_stream;
  char *in;
  size_t used, scanned, length;
  long long began, starts_at;
};

struct samples {
  unsigned *values;
  size_t count, room;
};

static struct connection connections[MAX];
static struct samples latencies, delays;
static long long answers, failures, chunks;
static char *request;
static size_t request_size;
static unsigned short port;
static int poller, is_stream_request;

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void note(struct samples *s, long long ns) {
  if (s->count == s->room) {
    s->room = s->room ? s->room * 2 : 1 << 16;
    s->values = realloc(s->values, s->room * sizeof *s->values);
  }
  s->values[s->count++] = (unsigned)(ns < 0 ? 0 : ns / 1000);
}

static int by_value(const void *a, const void *b) {
  unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;
  return (x > y) - (x < y);
}

static unsigned quantile(struct samples *s, double q) {
  if (!s->count) return 0;
  size_t at = (size_t)(q * (double)s->count);
  return s->values[at < s->count ? at : s->count - 1];
}

static void open_connection(struct connection *c) {
  int on = 1;
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(port)};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  c->fd = socket(AF_INET, SOCK_STREAM, 0);
  if (connect(c->fd, (struct sockaddr *)&address, sizeof address)) {
    perror("load: connect");
    exit(1);
  }
  setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  struct epoll_event wanted = {.events = EPOLLIN, .data.ptr = c};
  epoll_ctl(poller, EPOLL_CTL_ADD, c->fd, &wanted);
}

static void begin(struct connection *c, long long now) {
  c->used = c->scanned = c->length = 0;
  c->has_first = c->is_stream = 0;
  c->is_busy = 1;
  c->began = now;
  if (send(c->fd, request, request_size, MSG_NOSIGNAL) != (ssize_t)request_size) failures++;
}

static void again(struct connection *c) {
  failures++;
  close(c->fd);
  open_connection(c);
  begin(c, now_ns());
}

/* Whether the answer is complete; counts the chunks of a stream on the way. */
static int look(struct connection *c, long long now) {
  if (!c->length) {
    char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end) return 0;
    if (strncmp(c->in, "HTTP/1.1 200", 12)) return -1;
    c->scanned = (size_t)(end - c->in) + 4;
    c->is_stream = 1;
    for (char *at = c->in; at < end; at = strchr(at, '\n') + 1)
      if (!strncasecmp(at, "content-length:", 15)) {
        c->is_stream = 0;
        c->length = c->scanned + (size_t)atoll(at + 15);
      }
    if (c->is_stream) c->length = 1;
  }
  if (!c->is_stream) {
    if (c->used < c->length) return 0;
    note(&latencies, now - c->began);
    return memmem(c->in, c->used, "\"usage\"", 7) ? 1 : -1;
  }
  for (;;) {
    char *at = memmem(c->in + c->scanned, c->used - c->scanned, "\"t\":", 4);
    if (!at || !memchr(at, '}', c->used - (size_t)(at - c->in))) break;
    note(&delays, now - atoll(at + 4));
    chunks++;
    if (!c->has_first) {
      c->has_first = 1;
      note(&latencies, now - c->began);
    }
    c->scanned = (size_t)(at - c->in) + 4;
  }
  if (c->used >= 5 && !memcmp(c->in + c->used - 5, "0\r\n\r\n", 5))
    return memmem(c->in + c->scanned, c->used - c->scanned, "[DONE]", 6) ? 1 : -1;
  if (c->used > BUFFER / 2 && c->scanned > BUFFER / 4) {
    memmove(c->in, c->in + c->scanned, c->used - c->scanned);
    c->used -= c->scanned;
    c->scanned = 0;
  }
  return 0;
}

int main(int argc, char **argv) {
  if (argc != 5) return 2;
  port = (unsigned short)atoi(argv[1]);
  int count = atoi(argv[2]);
  double seconds = atof(argv[3]);
  FILE *file = fopen(argv[4], "rb");
  if (!file || count > MAX) return perror("load"), 2;
  request = malloc(1 << 20);
  request_size = fread(request, 1, 1 << 20, file);
  fclose(file);
  is_stream_request = memmem(request, request_size, "\"stream\":true", 13) != NULL;
  poller = epoll_create1(0);
  long long start = now_ns(), end = start + (long long)(seconds * 1e9);
  for (int i = 0; i < count; i++) {
    connections[i].in = malloc(BUFFER);
    open_connection(&connections[i]);
    connections[i].starts_at = start + (is_stream_request ? 1000000000LL * i / count : 0);
  }
  struct epoll_event events[512];
  int waiting = count;
  for (;;) {
    long long now = now_ns();
    if (now >= end) break;
    for (int i = 0; waiting && i < count; i++)
      if (connections[i].starts_at && connections[i].starts_at <= now) {
        connections[i].starts_at = 0;
        waiting--;
        begin(&connections[i], now);
      }
    int ready = epoll_wait(poller, events, 512, waiting ? 1 : 20);
    for (int i = 0; i < ready; i++) {
      struct connection *c = events[i].data.ptr;
      ssize_t got = recv(c->fd, c->in + c->used, BUFFER - c->used, MSG_DONTWAIT);
      if (got < 0 && errno == EAGAIN) continue;
      if (got <= 0) {
        again(c);
        continue;
      }
      c->used += (size_t)got;
      now = now_ns();
      int state = c->is_busy ? look(c, now) : 0;
      if (state == 0) continue;
      if (state < 0) {
        again(c);
        continue;
      }
      answers++;
      begin(c, now);
    }
  }
  qsort(latencies.values, latencies.count, sizeof(unsigned), by_value);
  qsort(delays.values, delays.count, sizeof(unsigned), by_value);
  printf("{\"answers\":%lld,\"failures\":%lld,\"chunks\":%lld,\"seconds\":%.3f,\"p50\":%u,\"p99\":%u,\"delay50\":%u,\"delay99\":%u}\n",
         answers, failures, chunks, seconds, quantile(&latencies, .5), quantile(&latencies, .99), quantile(&delays, .5),
         quantile(&delays, .99));
  return 0;
}
