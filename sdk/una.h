/* The calls of una that WASI has no words for: ports and messages, names, pipes, processes. For programs in C and C++; they link with
 * nothing. A program that includes this runs where there is a node (`una up`); elsewhere each call gives UNA_NO_NODE.
 *
 * Each function gives UNA_OK or why not. Results go where the last pointers say. Handles are small integers of this process; a handle that
 * is sent along in a message is another one for whoever receives it. Deadlines are moments of CLOCK_MONOTONIC in nanoseconds: see
 * una_after_ms.
 *
 * A port whose name a durable process has bound (`una run --durable`) outlives its node: whoever found it by that name and calls it, or
 * sends with a deadline, waits until the process has it, wherever that goes on, and it counts once. A durable process itself has ports
 * with names, calls and sends by name, and timers; what else there is here gives it UNA_NOT_DURABLE.
 */
#ifndef UNA_H
#define UNA_H

#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef uint32_t una_handle;

enum una_error {
    UNA_OK = 0,
    UNA_BAD_HANDLE = 1,   /* no such handle, or not any more */
    UNA_ENDED = 2,        /* what it points to has ended */
    UNA_WRONG_KIND = 3,   /* it points to something that cannot do this */
    UNA_LACKS_RIGHTS = 4,
    UNA_TOO_LONG = 5,     /* a message has at most 1 MiB */
    UNA_FULL = 6,         /* there is no room now */
    UNA_EXPIRED = 7,      /* the deadline has come */
    UNA_INTERRUPTED = 8,
    UNA_CLOSED = 9,       /* nobody receives from the port any more */
    UNA_EMPTY = 10,       /* there is nothing now */
    UNA_NO_SENDERS = 11,  /* there is nothing, and nobody can send any more */
    UNA_NO_READERS = 12,
    UNA_ABANDONED = 13,   /* a server took the request and gave no answer: it may have had an effect */
    UNA_LIMIT = 14,       /* one of the process's bounds: `una run --handles`, `--mailbox`, or one that all have */
    UNA_TRANSFER = 15,    /* a handle cannot go along; nothing was sent */
    UNA_BAD_NAME = 16,
    UNA_NOT_FOUND = 17,
    UNA_EXISTS = 18,
    UNA_NOT_A_PORT = 19,
    UNA_CALLER_GONE = 20, /* nobody waits for the answer */
    UNA_AMPLIFIED = 21,   /* more rights were asked for than there are */
    UNA_OPTIONS = 22,     /* an argument makes no sense */
    UNA_ITSELF = 23,
    UNA_BUFFER = 24,      /* the buffer is too small: the length is in the result; ask again with a larger one, nothing is lost */
    UNA_PROGRAM = 25,     /* the program cannot be run; the log says why */
    UNA_NO_NODE = 26,     /* start one: una up */
    UNA_FAULT = 27,       /* a pointer leads out of the memory */
    UNA_SERVICE = 28,     /* the system's service failed */
    UNA_UNKNOWN = 29,     /* another node did not say in time what became of it */
    UNA_UNREACHABLE = 30, /* the other node cannot be reached */
    UNA_NOT_DURABLE = 31, /* not in a durable process: children, pipes, badges, copies of handles, watching, handles in messages */
};

/* What a handle lets its holder do. */
enum una_right {
    UNA_RIGHT_COPY = 1,
    UNA_RIGHT_MOVE = 1 << 1,
    UNA_RIGHT_WATCH = 1 << 2,
    UNA_RIGHT_SEND = 1 << 3,
    UNA_RIGHT_RECEIVE = 1 << 4,
    UNA_RIGHT_BADGE = 1 << 5,
    UNA_RIGHT_READ = 1 << 6,
    UNA_RIGHT_WRITE = 1 << 7,
    UNA_RIGHT_WAIT = 1 << 8,
    UNA_RIGHT_KILL = 1 << 9,
    UNA_RIGHT_CONTROL = 1 << 10,
    UNA_RIGHT_ANSWER = 1 << 11,
};

#define UNA_NOW 0ull             /* do not wait */
#define UNA_FOREVER (~0ull)      /* wait for ever */
#define UNA_FIRST_HANDLE 2u      /* of those that a process was spawned with, in their order; 1 leads to the names */
#define UNA_HANDLES_MAX 8

/* A handle that goes along with a message. */
typedef struct {
    una_handle handle;
    uint32_t rights;             /* 0: all that this handle has */
    uint32_t moved;              /* not 0: the sender's handle is closed when the message is accepted */
} una_transfer;

enum una_kind { UNA_MESSAGE = 0, UNA_NOTICE = 1 };
enum una_event { UNA_EXITED = 1, UNA_PORT_CLOSED = 2, UNA_CALLER_GONE_AWAY = 3, UNA_TIMER = 4 };
enum una_exit { UNA_EXIT_CODE = 0, UNA_EXIT_KILLED = 1, UNA_EXIT_ORPHANED = 2, UNA_EXIT_FAULTED = 3, UNA_EXIT_NOT_STARTED = 4, UNA_EXIT_NODE_LOST = 5 };

/* What was received. The bytes are in the buffer. */
typedef struct {
    uint32_t kind;
    uint32_t length;
    uint64_t sender;             /* of a notice of an end: the process that ended */
    uint64_t badge;
    una_handle reply;            /* not 0: a call; answer it with una_reply */
    uint32_t handle_count;
    una_handle handles[UNA_HANDLES_MAX];
    uint64_t token;              /* of a notice: as asked for */
    uint32_t event;
    uint32_t exit_kind;
    uint32_t exit_code;
    uint32_t index;              /* of una_select: from which port */
} una_message;

typedef struct {
    uint32_t length;
    uint32_t handle_count;
    una_handle handles[UNA_HANDLES_MAX];
} una_answer;

typedef struct {
    uint32_t messages, bytes, senders_waiting, receivers_waiting;
    uint64_t dropped;
} una_port_status_t;

typedef struct {
    una_handle process;
    uint32_t unused;
    uint64_t pid;
} una_spawned;

typedef struct {
    uint32_t kind;               /* enum una_exit */
    uint32_t code;
} una_exit_status;

#define UNA_IMPORT(name) __attribute__((import_module("una"), import_name(#name)))

/* A queue for up to `messages_max` messages (0: rendezvous) of `bytes_max` bytes together. When it is full senders wait, or, if `drops` is
 * not 0, messages are dropped and counted. */
UNA_IMPORT(port_create) int una_port_create(uint32_t messages_max, uint32_t bytes_max, uint32_t drops, una_handle *port);
UNA_IMPORT(port_status) int una_port_status(una_handle port, una_port_status_t *status);
/* A second handle to a port that puts this number on each message sent through it. */
UNA_IMPORT(port_badge) int una_port_badge(una_handle port, uint64_t badge, uint32_t rights, una_handle *badged);
UNA_IMPORT(send) int una_send(una_handle port, const void *bytes, uint32_t length, const una_transfer *handles, uint32_t count,
                              uint64_t deadline_ns);
/* Never waits; where there is no room the message is lost. */
UNA_IMPORT(send_unreliable) int una_send_unreliable(una_handle port, const void *bytes, uint32_t length);
UNA_IMPORT(receive) int una_receive(una_handle port, void *buffer, uint32_t room, una_message *message, uint64_t deadline_ns);
/* From the first of up to 16 ports that has something. */
UNA_IMPORT(select) int una_select(const una_handle *ports, uint32_t count, void *buffer, uint32_t room, una_message *message,
                                  uint64_t deadline_ns);
/* Sends a request and waits for its answer. */
UNA_IMPORT(call) int una_call(una_handle port, const void *bytes, uint32_t length, const una_transfer *handles, uint32_t count,
                              void *buffer, uint32_t room, una_answer *answer, uint64_t deadline_ns);
/* The answer to the last call that gave UNA_BUFFER. */
UNA_IMPORT(last_answer) int una_last_answer(void *buffer, uint32_t room, una_answer *answer);
UNA_IMPORT(reply) int una_reply(una_handle reply, const void *bytes, uint32_t length, const una_transfer *handles, uint32_t count);

/* A stream of bytes, of which up to `bytes_max` may be on their way. */
UNA_IMPORT(pipe_create) int una_pipe_create(uint32_t bytes_max, una_handle *pipe);
/* Waits for the first byte only; 0 bytes are the end. */
UNA_IMPORT(pipe_read) int una_pipe_read(una_handle pipe, void *buffer, uint32_t room, uint32_t *length, uint64_t deadline_ns);
UNA_IMPORT(pipe_write) int una_pipe_write(una_handle pipe, const void *bytes, uint32_t length, uint32_t *written, uint64_t deadline_ns);

UNA_IMPORT(handle_close) int una_close(una_handle handle);
UNA_IMPORT(handle_duplicate) int una_duplicate(una_handle handle, uint32_t rights, una_handle *copy);
UNA_IMPORT(handle_rights) int una_rights(una_handle handle, uint32_t *rights);
/* One notice to a port of this process, when a process ends, a port closes or a caller goes away. */
UNA_IMPORT(watch) int una_watch(una_handle subject, una_handle port, uint64_t token, una_handle *watch);
UNA_IMPORT(timer) int una_timer(uint64_t at_ns, una_handle port, uint64_t token, una_handle *timer);

/* Names of ports, as `/port/mine`. */
UNA_IMPORT(name_bind) int una_name_bind(const char *path, uint32_t length, una_handle port, uint32_t replaces);
UNA_IMPORT(name_unbind) int una_name_unbind(const char *path, uint32_t length);
UNA_IMPORT(name_lookup) int una_name_lookup(const char *path, uint32_t length, una_handle *port);

/* Starts a program: the one in the open file `file`, or this very one if it is -1. `args` and `env` are strings that end with a NUL
 * each. The child sees the same files, writes where this process writes, and ends with it at the latest. */
UNA_IMPORT(spawn) int una_spawn(int file, const char *args, uint32_t args_length, const char *env, uint32_t env_length,
                                const una_transfer *handles, uint32_t count, una_spawned *spawned);
/* The same, but it has a log of its own, and is taken to where `place` says at once, while it runs: "on NODE", "near PID" or "spread". If it
 * cannot go there it stays, and its log says why. UNA_NOT_FOUND: there is no such node; UNA_OPTIONS: it is none of these. */
UNA_IMPORT(spawn_placed) int una_spawn_placed(int file, const char *args, uint32_t args_length, const char *env, uint32_t env_length,
                                              const una_transfer *handles, uint32_t count, const char *place,
                                              uint32_t place_length, una_spawned *spawned);
UNA_IMPORT(process_wait) int una_process_wait(una_handle process, una_exit_status *status, uint64_t deadline_ns);
UNA_IMPORT(process_kill) int una_process_kill(una_handle process);
UNA_IMPORT(process_hold) int una_process_hold(una_handle process);
UNA_IMPORT(process_release) int una_process_release(una_handle process);

/* A deadline so many milliseconds from now. */
static inline uint64_t una_after_ms(uint64_t ms) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000ull + (uint64_t)now.tv_nsec + ms * 1000000ull;
}

static inline int una_bind(const char *path, una_handle port) {
    return una_name_bind(path, (uint32_t)strlen(path), port, 0);
}

static inline int una_lookup(const char *path, una_handle *port) {
    return una_name_lookup(path, (uint32_t)strlen(path), port);
}

#ifdef __cplusplus
}
#endif

#endif
