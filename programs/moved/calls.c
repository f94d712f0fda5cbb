// Ports, pipes, calls, timers and children of a process that moves. A child is the same program in another part, which it is told by its
// arguments; it stays where it was begun while its parent moves.
#include "moved.h"
#include <time.h>
#include <una.h>
#include <unistd.h>

#define OK(call) MUST((call) == UNA_OK)

static una_handle port(uint32_t messages) {
    una_handle made;
    OK(una_port_create(messages, 1 << 16, 0, &made));
    return made;
}

static void put(una_handle to, const char *text) { OK(una_send(to, text, (uint32_t)strlen(text), NULL, 0, una_after_ms(30000))); }

static una_message take(una_handle from, const char *expected) {
    char buffer[64];
    una_message message;
    OK(una_receive(from, buffer, sizeof buffer, &message, una_after_ms(30000)));
    MUST(message.kind == UNA_MESSAGE && message.length == strlen(expected) && !memcmp(buffer, expected, message.length));
    return message;
}

static void empty(una_handle from) {
    char buffer[64];
    una_message message;
    MUST(una_receive(from, buffer, sizeof buffer, &message, UNA_NOW) == UNA_EMPTY);
}

// A handle by which a child may send to this port, and no more.
static una_handle way_to(una_handle port) {
    una_handle way;
    OK(una_duplicate(port, UNA_RIGHT_SEND | UNA_RIGHT_COPY | UNA_RIGHT_MOVE, &way));
    return way;
}

static una_handle child(const char *part, una_handle given) {
    char arguments[64];
    int length = snprintf(arguments, sizeof arguments, "moved%cas%c%s", 0, 0, part) + 1;
    una_transfer transfer = {.handle = given};
    una_spawned spawned;
    OK(una_spawn(-1, arguments, (uint32_t)length, "", 0, &transfer, given ? 1 : 0, &spawned));
    return spawned.process;
}

static void ends_with(una_handle process, uint32_t kind, uint32_t code) {
    una_exit_status status;
    OK(una_process_wait(process, &status, una_after_ms(30000)));
    MUST(status.kind == kind && status.code == code);
}

static void nap(int ms) {
    struct timespec duration = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    nanosleep(&duration, NULL);
}

// Waits in a call while it is moved: `moved` without its reading.
static void begins_to_wait(void) {
    printf("ready\n");
    fflush(stdout);
}

static void was_moved(void) {
    char byte;
    MUST(read(0, &byte, 1) == 1);
}

static void queued(void) {
    una_handle box = port(16);
    put(box, "one");
    put(box, "two");
    moved();
    put(box, "three");
    take(box, "one");
    moved();
    take(box, "two");
    take(box, "three");
    empty(box);
}

static void half_read(void) {
    una_handle box = port(16);
    put(box, "much longer than the buffer");
    char small[4];
    una_message message;
    MUST(una_receive(box, small, sizeof small, &message, UNA_NOW) == UNA_BUFFER);
    MUST(message.length == 27);
    moved();
    take(box, "much longer than the buffer");
    empty(box);
}

static void full(void) {
    una_handle box = port(2);
    put(box, "a");
    put(box, "b");
    moved();
    MUST(una_send(box, "c", 1, NULL, 0, UNA_NOW) == UNA_FULL);
    una_port_status_t status;
    OK(una_port_status(box, &status));
    MUST(status.messages == 2 && status.bytes == 2);
    take(box, "a");
    take(box, "b");
}

static void dropping(void) {
    una_handle box;
    OK(una_port_create(1, 1 << 16, 1, &box));
    for (int i = 0; i < 5; i++) una_send_unreliable(box, "x", 1);
    moved();
    una_port_status_t status;
    OK(una_port_status(box, &status));
    MUST(status.dropped == 4 && status.messages == 1);
    take(box, "x");
}

static void handle_in_a_message(void) {
    una_handle box = port(4), other = port(4);
    una_transfer transfer = {.handle = other, .moved = 1};
    OK(una_send(box, "take it", 7, &transfer, 1, UNA_NOW));
    moved();
    una_message message = take(box, "take it");
    MUST(message.handle_count == 1);
    put(message.handles[0], "to the other");
    moved();
    take(message.handles[0], "to the other");
    uint32_t rights;
    MUST(una_rights(other, &rights) == UNA_BAD_HANDLE);
}

static void badges_and_rights(void) {
    una_handle box = port(4), badged, copy;
    OK(una_port_badge(box, 4711, UNA_RIGHT_SEND | UNA_RIGHT_COPY, &badged));
    OK(una_duplicate(badged, UNA_RIGHT_SEND, &copy));
    moved();
    uint32_t rights;
    OK(una_rights(copy, &rights));
    MUST(rights == UNA_RIGHT_SEND);
    put(copy, "badged");
    una_message message = take(box, "badged");
    MUST(message.badge == 4711);
    char buffer[8];
    MUST(una_receive(badged, buffer, sizeof buffer, &message, UNA_NOW) == UNA_LACKS_RIGHTS);
}

static void handle_numbers(void) {
    una_handle handles[20];
    for (int i = 0; i < 20; i++) handles[i] = port((uint32_t)i + 1);
    for (int i = 0; i < 20; i += 2) OK(una_close(handles[i]));
    moved();
    for (int i = 0; i < 20; i++) {
        una_port_status_t status;
        MUST(una_port_status(handles[i], &status) == (i % 2 ? UNA_OK : UNA_BAD_HANDLE));
    }
    for (int i = 1; i < 20; i += 2) {
        put(handles[i], "still mine");
        take(handles[i], "still mine");
    }
}

static void pipe_bytes(void) {
    una_handle pipe;
    OK(una_pipe_create(64, &pipe));
    uint32_t count;
    OK(una_pipe_write(pipe, "0123456789", 10, &count, UNA_NOW));
    char buffer[16];
    OK(una_pipe_read(pipe, buffer, 3, &count, UNA_NOW));
    MUST(count == 3);
    moved();
    OK(una_pipe_read(pipe, buffer, sizeof buffer, &count, UNA_NOW));
    MUST(count == 7 && !memcmp(buffer, "3456789", 7));
    MUST(una_pipe_read(pipe, buffer, sizeof buffer, &count, UNA_NOW) == UNA_EMPTY);
}

static void timer(void) {
    una_handle box = port(4), timer, later;
    uint64_t at = una_after_ms(700);
    OK(una_timer(at, box, 31, &timer));
    OK(una_timer(una_after_ms(3600000), box, 32, &later));
    moved();
    una_message message;
    OK(una_receive(box, NULL, 0, &message, una_after_ms(30000)));
    MUST(message.kind == UNA_NOTICE && message.event == UNA_TIMER && message.token == 31);
    MUST(una_after_ms(0) >= at);
    empty(box);
}

static void child_exits(void) {
    una_handle process = child("napper", 0);
    moved();
    ends_with(process, UNA_EXIT_CODE, 7);
}

static void waits_for_a_child(void) {
    una_handle process = child("napper", 0);
    begins_to_wait();
    ends_with(process, UNA_EXIT_CODE, 7);
    was_moved();
}

static void child_had_exited(void) {
    una_handle process = child("brief", 0);
    ends_with(process, UNA_EXIT_CODE, 3);
    moved();
    ends_with(process, UNA_EXIT_CODE, 3);
}

static void child_is_killed(void) {
    una_handle process = child("sleeper", 0);
    moved();
    OK(una_process_hold(process));
    OK(una_process_release(process));
    OK(una_process_kill(process));
    ends_with(process, UNA_EXIT_KILLED, 0);
}

static void child_is_watched(void) {
    una_handle box = port(4), watch;
    una_handle process = child("napper", 0);
    OK(una_watch(process, box, 99, &watch));
    moved();
    una_message message;
    OK(una_receive(box, NULL, 0, &message, una_after_ms(30000)));
    MUST(message.kind == UNA_NOTICE && message.event == UNA_EXITED && message.token == 99);
    MUST(message.exit_kind == UNA_EXIT_CODE && message.exit_code == 7);
}

// The child sends "0" to "99" to the port that it was given.
static void child_sends(void) {
    una_handle box = port(3);
    una_handle process = child("counter", way_to(box));
    for (int i = 0; i < 100; i++) {
        char text[8];
        snprintf(text, sizeof text, "%d", i);
        take(box, text);
        if (i % 40 == 20) moved();
    }
    ends_with(process, UNA_EXIT_CODE, 0);
    empty(box);
}

// It waits for a message while it moves; the child sends one a while later.
static void waits_for_a_message(void) {
    una_handle box = port(3);
    una_handle process = child("late-sender", way_to(box));
    begins_to_wait();
    take(box, "late");
    was_moved();
    ends_with(process, UNA_EXIT_CODE, 0);
}

static void selects(void) {
    una_handle boxes[2] = {port(3), port(3)};
    una_handle process = child("late-sender", way_to(boxes[1]));
    begins_to_wait();
    char buffer[16];
    una_message message;
    OK(una_select(boxes, 2, buffer, sizeof buffer, &message, una_after_ms(30000)));
    MUST(message.index == 1 && message.length == 4 && !memcmp(buffer, "late", 4));
    was_moved();
    ends_with(process, UNA_EXIT_CODE, 0);
}

// The child takes the request, and answers a while later: it must see the request once.
static void call_under_way(void) {
    una_handle way = port(4);
    una_handle process = child("server", way_to(way));
    take(way, "serving");
    una_message hello;
    char buffer[64];
    OK(una_receive(way, buffer, sizeof buffer, &hello, una_after_ms(30000)));
    MUST(hello.handle_count == 1);
    una_handle server = hello.handles[0];
    una_answer answer;
    begins_to_wait();
    OK(una_call(server, "question", 8, NULL, 0, buffer, sizeof buffer, &answer, una_after_ms(30000)));
    MUST(answer.length == 6 && !memcmp(buffer, "answer", 6));
    was_moved();
    OK(una_call(server, "how often", 9, NULL, 0, buffer, sizeof buffer, &answer, una_after_ms(30000)));
    MUST(answer.length == 1 && buffer[0] == 1);
    ends_with(process, UNA_EXIT_CODE, 0);
}

// The child calls this process, which moves between taking the request and answering it.
static void answers_later(void) {
    una_handle box = port(4);
    una_handle process = child("caller", way_to(box));
    char buffer[64];
    una_message request;
    OK(una_receive(box, buffer, sizeof buffer, &request, una_after_ms(30000)));
    MUST(request.reply && request.length == 8 && !memcmp(buffer, "question", 8));
    moved();
    OK(una_reply(request.reply, "answer", 6, NULL, 0));
    moved();
    ends_with(process, UNA_EXIT_CODE, 0);
}

// Three callers wait in the queue while it moves.
static void callers_in_the_queue(void) {
    una_handle box = port(1), calls = way_to(box);
    una_handle children[3];
    for (int i = 0; i < 3; i++) children[i] = child("caller", calls);
    nap(300);
    moved();
    for (int i = 0; i < 3; i++) {
        char buffer[64];
        una_message request;
        OK(una_receive(box, buffer, sizeof buffer, &request, una_after_ms(30000)));
        MUST(request.reply && request.length == 8);
        OK(una_reply(request.reply, "answer", 6, NULL, 0));
        if (i == 1) moved();
    }
    for (int i = 0; i < 3; i++) ends_with(children[i], UNA_EXIT_CODE, 0);
    empty(box);
}

static void reads_a_pipe(void) {
    una_handle pipe;
    OK(una_pipe_create(64, &pipe));
    una_handle process = child("pipe-writer", pipe);
    uint32_t next = 0, count;
    while (next < 1000) {
        uint8_t buffer[50];
        OK(una_pipe_read(pipe, buffer, sizeof buffer, &count, una_after_ms(30000)));
        for (uint32_t i = 0; i < count; i++, next++) {
            MUST(buffer[i] == (uint8_t)(next * 7));
            if (next % 400 == 300) moved();
        }
    }
    ends_with(process, UNA_EXIT_CODE, 0);
}

static void writes_a_pipe(void) {
    una_handle pipe;
    OK(una_pipe_create(64, &pipe));
    una_handle process = child("pipe-reader", pipe);
    for (uint32_t next = 0; next < 1000; next++) {
        uint8_t byte = (uint8_t)(next * 7);
        uint32_t count;
        OK(una_pipe_write(pipe, &byte, 1, &count, una_after_ms(30000)));
        MUST(count == 1);
        if (next % 400 == 300) moved();
    }
    ends_with(process, UNA_EXIT_CODE, 0);
}

// It waits in the middle of a write that is larger than the pipe.
static void in_a_large_write(void) {
    una_handle pipe;
    OK(una_pipe_create(64, &pipe));
    una_handle process = child("late-pipe-reader", pipe);
    uint8_t bytes[1000];
    for (uint32_t next = 0; next < 1000; next++) bytes[next] = (uint8_t)(next * 7);
    begins_to_wait();
    uint32_t count;
    OK(una_pipe_write(pipe, bytes, sizeof bytes, &count, una_after_ms(30000)));
    MUST(count == 1000);
    was_moved();
    ends_with(process, UNA_EXIT_CODE, 0);
}

const struct test_case call_cases[] = {
    {"queued", queued},
    {"half-read", half_read},
    {"full", full},
    {"dropping", dropping},
    {"handle-in-a-message", handle_in_a_message},
    {"badges-and-rights", badges_and_rights},
    {"handle-numbers", handle_numbers},
    {"pipe-bytes", pipe_bytes},
    {"timer", timer},
    {"child-exits", child_exits},
    {"waits-for-a-child", waits_for_a_child},
    {"child-had-exited", child_had_exited},
    {"child-is-killed", child_is_killed},
    {"child-is-watched", child_is_watched},
    {"child-sends", child_sends},
    {"waits-for-a-message", waits_for_a_message},
    {"selects", selects},
    {"call-under-way", call_under_way},
    {"answers-later", answers_later},
    {"callers-in-the-queue", callers_in_the_queue},
    {"reads-a-pipe", reads_a_pipe},
    {"writes-a-pipe", writes_a_pipe},
    {"in-a-large-write", in_a_large_write},
    {0},
};

// What children do. Each has one handle from its parent.
int part(const char *name) {
    una_handle given = UNA_FIRST_HANDLE;
    uint32_t count;
    if (!strcmp(name, "brief")) return 3;
    if (!strcmp(name, "napper")) {
        nap(1500);
        return 7;
    }
    if (!strcmp(name, "sleeper")) {
        nap(3600000);
        return 0;
    }
    if (!strcmp(name, "counter")) {
        for (int i = 0; i < 100; i++) {
            char text[8];
            snprintf(text, sizeof text, "%d", i);
            put(given, text);
        }
        return 0;
    }
    if (!strcmp(name, "late-sender")) {
        nap(1500);
        put(given, "late");
        return 0;
    }
    if (!strcmp(name, "caller")) {
        char buffer[16];
        una_answer answer;
        OK(una_call(given, "question", 8, NULL, 0, buffer, sizeof buffer, &answer, una_after_ms(60000)));
        MUST(answer.length == 6 && !memcmp(buffer, "answer", 6));
        return 0;
    }
    if (!strcmp(name, "server")) {
        una_handle calls = port(4), sends = way_to(calls);
        put(given, "serving");
        una_transfer transfer = {.handle = sends, .moved = 1};
        OK(una_send(given, "here", 4, &transfer, 1, una_after_ms(30000)));
        char buffer[16];
        una_message request;
        uint8_t questions = 0;
        for (;;) {
            OK(una_receive(calls, buffer, sizeof buffer, &request, una_after_ms(30000)));
            if (request.length == 9) {
                OK(una_reply(request.reply, &questions, 1, NULL, 0));
                return 0;
            }
            questions++;
            nap(1500);
            OK(una_reply(request.reply, "answer", 6, NULL, 0));
        }
    }
    if (!strcmp(name, "pipe-writer")) {
        for (uint32_t next = 0; next < 1000; next++) {
            uint8_t byte = (uint8_t)(next * 7);
            OK(una_pipe_write(given, &byte, 1, &count, una_after_ms(30000)));
        }
        return 0;
    }
    if (!strcmp(name, "pipe-reader") || !strcmp(name, "late-pipe-reader")) {
        if (name[0] == 'l') nap(1500);
        for (uint32_t next = 0; next < 1000;) {
            uint8_t buffer[33];
            OK(una_pipe_read(given, buffer, sizeof buffer, &count, una_after_ms(30000)));
            for (uint32_t i = 0; i < count; i++, next++) MUST(buffer[i] == (uint8_t)(next * 7));
        }
        return 0;
    }
    return 2;
}
