/* A model server for measuring what stands in front of it: one thread, epoll, as cheap as it can be.
 *
 * usage: mock PORT
 *
 * Answers every POST. A body with "stream":true gets CHUNKS events, the first at once and then one each EVERY_NS, each
 * with the time at which it was sent ("t": nanoseconds of the monotonic clock), then the end, the usage if it was asked
 * for, and [DONE]. Any other body gets a small JSON answer with usage at once. No checks beyond what a measurement needs.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <time.h>
#include <unistd.h>

enum { CHUNKS = 50, BUFFER = 256 * 1024, MAX_FD = 8192 };
static const long long EVERY_NS = 20 * 1000000LL;

struct connection {
  char *in;
  size_t used;
  int sent;          /* chunks of the present stream */
  int wants_usage;
  int is_streaming;
  long long due;
  int next;          /* in the queue of streams, by due time */
};

static struct connection connections[MAX_FD];
static int queue_head = -1, queue_tail = -1;

static long long now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000000LL + t.tv_nsec;
}

static void enqueue(int fd) {
  connections[fd].next = -1;
  if (queue_tail >= 0) connections[queue_tail].next = fd;
  else queue_head = fd;
  queue_tail = fd;
}

/* A stream whose reader left stays in the queue until its turn; is_streaming says that there is nothing to do. */
static void drop(int fd) {
  connections[fd].is_streaming = -1;
  connections[fd].used = 0;
  close(fd);
}

static int put(int fd, const char *data, size_t size) {
  while (size) {
    ssize_t done = send(fd, data, size, MSG_NOSIGNAL);
    if (done < 0) {
      if (errno == EAGAIN) continue; /* readers of a measurement keep up */
      return -1;
    }
    data += done;
    size -= (size_t)done;
  }
  return 0;
}

static int put_event(int fd, const char *event, const char *more) {
  char out[2048];
  size_t size = strlen(event);
  int used = snprintf(out, sizeof out, "%zx\r\n%s\r\n%s", size, event, more);
  return put(fd, out, (size_t)used);
}

static int put_chunk(int fd) {
  char event[512];
  snprintf(event, sizeof event,
           "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-up\","
           "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"finish_reason\":null}],\"t\":%lld}\n\n",
           connections[fd].sent, now_ns());
  connections[fd].sent++;
  return put_event(fd, event, "");
}

static int put_end(int fd) {
  if (put_event(fd,
                "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-up\","
                "\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n",
                ""))
    return -1;
  if (connections[fd].wants_usage &&
      put_event(fd,
                "data: {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"created\":1700000000,\"model\":\"bench-up\","
                "\"choices\":[],\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":50,\"total_tokens\":350}}\n\n",
                ""))
    return -1;
  return put_event(fd, "data: [DONE]\n\n", "0\r\n\r\n");
}

static const char PLAIN_BODY[] =
    "{\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion\",\"created\":1700000000,\"model\":\"bench-up\",\"choices\":[{\"index\":0,"
    "\"finish_reason\":\"stop\",\"message\":{\"role\":\"assistant\",\"content\":\"The quick brown fox jumps over the lazy dog, and the"
    " dog, being lazy, lets it pass; which is all that anybody could ask of either on a warm afternoon in late summer.\"}}],"
    "\"usage\":{\"prompt_tokens\":300,\"completion_tokens\":40,\"total_tokens\":340,\"prompt_tokens_details\":{\"cached_tokens\":0}}}";
static const char STREAM_HEAD[] =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
static char plain[2048];

static int answer(int fd, const char *body, size_t size) {
  struct connection *c = &connections[fd];
  if (!memmem(body, size, "\"stream\":true", 13)) return put(fd, plain, strlen(plain));
  c->wants_usage = memmem(body, size, "\"include_usage\":true", 20) != NULL;
  c->sent = 0;
  if (put(fd, STREAM_HEAD, sizeof STREAM_HEAD - 1) || put_chunk(fd)) return -1;
  c->is_streaming = 1;
  c->due = now_ns() + EVERY_NS;
  enqueue(fd);
  return 0;
}

static void readable(int fd) {
  struct connection *c = &connections[fd];
  for (;;) {
    ssize_t got = recv(fd, c->in + c->used, BUFFER - c->used, 0);
    if (got < 0 && errno == EAGAIN) break;
    if (got <= 0) return drop(fd);
    c->used += (size_t)got;
  }
  for (;;) {
    char *end = memmem(c->in, c->used, "\r\n\r\n", 4);
    if (!end) return;
    size_t head = (size_t)(end - c->in) + 4, length = 0;
    for (char *at = c->in; at < end; at = strchr(at, '\n') + 1)
      if (!strncasecmp(at, "content-length:", 15)) length = (size_t)atoll(at + 15);
    if (c->used < head + length) return;
    if (answer(fd, c->in + head, length)) return drop(fd);
    memmove(c->in, c->in + head + length, c->used - head - length);
    c->used -= head + length;
  }
}

static int step_streams(void) {
  long long now = now_ns();
  while (queue_head >= 0) {
    int fd = queue_head;
    struct connection *c = &connections[fd];
    if (c->is_streaming == 1 && c->due > now) return (int)((c->due - now) / 1000000) + 1;
    queue_head = c->next;
    if (queue_head < 0) queue_tail = -1;
    if (c->is_streaming != 1) continue;
    c->is_streaming = 0;
    if (c->sent < CHUNKS) {
      if (put_chunk(fd)) {
        drop(fd);
        continue;
      }
      c->is_streaming = 1;
      c->due += EVERY_NS;
      enqueue(fd);
    } else if (put_end(fd)) {
      drop(fd);
    }
  }
  return -1;
}

int main(int argc, char **argv) {
  if (argc != 2) return 2;
  snprintf(plain, sizeof plain, "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n\r\n%s",
           sizeof PLAIN_BODY - 1, PLAIN_BODY);
  int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
  setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
  struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(argv[1]))};
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) return perror("mock"), 1;
  int poller = epoll_create1(0);
  struct epoll_event wanted = {.events = EPOLLIN, .data.fd = listener}, events[512];
  epoll_ctl(poller, EPOLL_CTL_ADD, listener, &wanted);
  for (;;) {
    int timeout = step_streams();
    int count = epoll_wait(poller, events, 512, timeout);
    for (int i = 0; i < count; i++) {
      int fd = events[i].data.fd;
      if (fd != listener) {
        readable(fd);
        continue;
      }
      while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= MAX_FD) {
          close(fd);
          continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = &connections[fd];
        if (!c->in) c->in = malloc(BUFFER);
        c->used = 0;
        c->is_streaming = 0;
        wanted.data.fd = fd;
        epoll_ctl(poller, EPOLL_CTL_ADD, fd, &wanted);
      }
    }
  }
}
