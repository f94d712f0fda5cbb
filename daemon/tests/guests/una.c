/* Everything in una.h, one case a run: the first argument says which. Ends with 0 if all was as it should be, else with a line number. */
#include "una.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define MUST(condition) do { if (!(condition)) { printf("line %d: %s\n", __LINE__, #condition); fflush(stdout); exit(1); } } while (0)
#define OK(call) do { int error_ = (call); if (error_) { printf("line %d: %s gave %d\n", __LINE__, #call, error_); fflush(stdout); exit(1); } } while (0)

static char buffer[1 << 16];
static una_message message;
static una_answer answer;

static una_spawned spawn_self(const char *what, const una_transfer *handles, uint32_t count) {
    una_spawned spawned;
    char args[64];
    uint32_t length = (uint32_t)snprintf(args, sizeof args, "una.wasm%c%s%c", 0, what, 0);
    OK(una_spawn(-1, args, length, "A=b", 4, handles, count, &spawned));
    return spawned;
}

static void exits_with(una_handle process, uint32_t kind, uint32_t code) {
    una_exit_status status;
    OK(una_process_wait(process, &status, una_after_ms(60000)));
    MUST(status.kind == kind && status.code == code);
}

/* Children, by what they were given. */
static void serve(void) {
    for (;;) {
        int error = una_receive(UNA_FIRST_HANDLE, buffer, sizeof buffer, &message, UNA_FOREVER);
        if (error == UNA_NO_SENDERS) exit(7);
        OK(error);
        MUST(message.kind == UNA_MESSAGE && message.reply);
        for (uint32_t at = 0; at < message.length; at++) buffer[at]++;
        OK(una_reply(message.reply, buffer, message.length, 0, 0));
    }
}

static void write_pipe(void) {
    uint32_t written;
    for (int round = 0; round < 100; round++) {
        memset(buffer, 'a' + round % 26, 1000);
        OK(una_pipe_write(UNA_FIRST_HANDLE, buffer, 1000, &written, UNA_FOREVER));
        MUST(written == 1000);
    }
}

/* Cases. */
static void calls(void) {
    una_handle port;
    OK(una_port_create(16, 1 << 16, 0, &port));
    una_transfer receiving = { port, UNA_RIGHT_RECEIVE, 0 };
    una_spawned server = spawn_self("serve", &receiving, 1);
    una_handle sending;
    OK(una_duplicate(port, UNA_RIGHT_SEND, &sending));
    OK(una_close(port));
    for (int round = 0; round < 1000; round++) {
        OK(una_call(sending, "abc", 3, 0, 0, buffer, sizeof buffer, &answer, una_after_ms(60000)));
        MUST(answer.length == 3 && !memcmp(buffer, "bcd", 3));
    }
    /* An answer that does not fit is not lost. */
    memset(buffer, 1, 5000);
    MUST(una_call(sending, buffer, 5000, 0, 0, buffer, 10, &answer, UNA_FOREVER) == UNA_BUFFER && answer.length == 5000);
    OK(una_last_answer(buffer, sizeof buffer, &answer));
    MUST(answer.length == 5000 && buffer[4999] == 2);
    MUST(una_last_answer(buffer, sizeof buffer, &answer) == UNA_EMPTY);
    /* The receiver learns that nobody can send any more. */
    OK(una_close(sending));
    exits_with(server.process, UNA_EXIT_CODE, 7);
}

static void ports(void) {
    una_handle port, badged;
    uint32_t rights;
    OK(una_port_create(2, 1000, 0, &port));
    MUST(una_receive(port, buffer, sizeof buffer, &message, UNA_NOW) == UNA_EMPTY);
    MUST(una_receive(port, buffer, sizeof buffer, &message, una_after_ms(5)) == UNA_EXPIRED);
    OK(una_port_badge(port, 99, UNA_RIGHT_SEND, &badged));
    OK(una_rights(badged, &rights));
    MUST(rights == UNA_RIGHT_SEND);
    MUST(una_receive(badged, buffer, sizeof buffer, &message, UNA_NOW) == UNA_LACKS_RIGHTS);
    OK(una_send(badged, "first", 5, 0, 0, UNA_NOW));
    OK(una_send(port, "second", 6, 0, 0, UNA_NOW));
    MUST(una_send(port, "third", 5, 0, 0, UNA_NOW) == UNA_FULL);
    OK(una_send_unreliable(port, "lost", 4));
    una_port_status_t status;
    OK(una_port_status(port, &status));
    MUST(status.messages == 2 && status.bytes == 11 && status.dropped == 1);
    MUST(una_receive(port, buffer, 4, &message, UNA_NOW) == UNA_BUFFER && message.length == 5);
    OK(una_receive(port, buffer, 5, &message, UNA_NOW));
    MUST(message.badge == 99 && message.length == 5 && !memcmp(buffer, "first", 5));
    una_handle other;
    OK(una_port_create(2, 1000, 1, &other));
    una_handle both[2] = { other, port };
    OK(una_select(both, 2, buffer, sizeof buffer, &message, UNA_FOREVER));
    MUST(message.index == 1 && message.length == 6 && !message.reply);
    una_handle timer;
    OK(una_timer(una_after_ms(3), other, 1234, &timer));
    OK(una_select(both, 2, buffer, sizeof buffer, &message, UNA_FOREVER));
    MUST(message.index == 0 && message.kind == UNA_NOTICE && message.event == UNA_TIMER && message.token == 1234);
    MUST(una_select(both, 0, buffer, 1, &message, UNA_NOW) == UNA_OPTIONS);
    both[1] = other;
    MUST(una_select(both, 2, buffer, 1, &message, UNA_NOW) == UNA_OPTIONS);
    MUST(una_send(port, buffer, 2000, 0, 0, UNA_NOW) == UNA_TOO_LONG);
    MUST(una_send(port, (void *)0xfffffff0, 64, 0, 0, UNA_NOW) == UNA_FAULT);
    MUST(una_send(12345, "", 0, 0, 0, UNA_NOW) == UNA_BAD_HANDLE);
    una_transfer moved = { other, 0, 1 };
    OK(una_send(port, "with", 4, &moved, 1, UNA_NOW));
    MUST(una_send(other, "", 0, 0, 0, UNA_NOW) == UNA_BAD_HANDLE);
    OK(una_receive(port, buffer, sizeof buffer, &message, UNA_NOW));
    MUST(message.handle_count == 1);
    OK(una_send(message.handles[0], "x", 1, 0, 0, UNA_NOW));
}

static void pipes(void) {
    una_handle pipe, reading;
    OK(una_pipe_create(2048, &pipe));
    OK(una_duplicate(pipe, UNA_RIGHT_READ, &reading));
    una_transfer writing = { pipe, UNA_RIGHT_WRITE, 1 };
    una_spawned writer = spawn_self("write_pipe", &writing, 1);
    uint64_t total = 0, sum = 0;
    for (;;) {
        uint32_t length;
        OK(una_pipe_read(reading, buffer, 777, &length, una_after_ms(60000)));
        if (!length) break;
        for (uint32_t at = 0; at < length; at++) MUST(buffer[at] == (char)('a' + (total + at) / 1000 % 26));
        total += length;
        sum++;
    }
    MUST(total == 100000 && sum >= 100);
    exits_with(writer.process, UNA_EXIT_CODE, 0);
}

static void names(void) {
    una_handle port, found;
    MUST(una_lookup("/port/mine", &found) == UNA_NOT_FOUND);
    MUST(una_lookup("port", &found) == UNA_BAD_NAME);
    OK(una_port_create(4, 1000, 0, &port));
    OK(una_bind("/port/mine", port));
    MUST(una_bind("/port/mine", port) == UNA_EXISTS);
    OK(una_lookup("/port/mine", &found));
    OK(una_send(found, "hello", 5, 0, 0, UNA_NOW));
    MUST(una_receive(found, buffer, sizeof buffer, &message, UNA_NOW) == UNA_LACKS_RIGHTS);
    OK(una_receive(port, buffer, sizeof buffer, &message, UNA_NOW));
    MUST(message.length == 5);
    OK(una_name_unbind("/port/mine", 10));
    MUST(una_lookup("/port/mine", &found) == UNA_NOT_FOUND);
}

static void processes(void) {
    una_handle port, watch;
    OK(una_port_create(4, 1000, 0, &port));
    una_spawned spinning = spawn_self("spin", 0, 0);
    una_exit_status status;
    MUST(una_process_wait(spinning.process, &status, una_after_ms(20)) == UNA_EXPIRED);
    OK(una_process_hold(spinning.process));
    OK(una_process_release(spinning.process));
    OK(una_watch(spinning.process, port, 5, &watch));
    OK(una_process_kill(spinning.process));
    OK(una_receive(port, buffer, sizeof buffer, &message, una_after_ms(60000)));
    MUST(message.kind == UNA_NOTICE && message.event == UNA_EXITED && message.token == 5 && message.exit_kind == UNA_EXIT_KILLED);
    exits_with(spinning.process, UNA_EXIT_KILLED, 0);
    MUST(una_process_kill(spinning.process) == UNA_ENDED);
    exits_with(spawn_self("exit", 0, 0).process, UNA_EXIT_CODE, 42);
    exits_with(spawn_self("trap", 0, 0).process, UNA_EXIT_FAULTED, 0);
    exits_with(spawn_self("env", 0, 0).process, UNA_EXIT_CODE, 0);
    /* A program from a file. */
    int file = open("/programs/una.wasm", O_RDONLY);
    MUST(file >= 0);
    una_spawned other;
    OK(una_spawn(file, "x\0exit", 7, "", 0, 0, 0, &other));
    exits_with(other.process, UNA_EXIT_CODE, 42);
    int wrong = open("/programs/not.wasm", O_RDONLY);
    MUST(wrong >= 0);
    MUST(una_spawn(wrong, "x", 2, "", 0, 0, 0, &other) == UNA_PROGRAM);
    MUST(una_spawn(77, "x", 2, "", 0, 0, 0, &other) == UNA_PROGRAM);
    /* Of one node alone, all places that are not named are here. */
    OK(una_spawn_placed(-1, "x\0exit", 7, "", 0, 0, 0, "spread", 6, &other));
    exits_with(other.process, UNA_EXIT_CODE, 42);
    MUST(una_spawn_placed(-1, "x\0exit", 7, "", 0, 0, 0, "on attic", 8, &other) == UNA_NOT_FOUND);
    MUST(una_spawn_placed(-1, "x\0exit", 7, "", 0, 0, 0, "in the attic", 12, &other) == UNA_OPTIONS);
    MUST(una_spawn_placed(-1, "x\0exit", 7, "", 0, 0, 0, "near attic", 10, &other) == UNA_OPTIONS);
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    const char *what = argv[1];
    if (!strcmp(what, "calls")) calls();
    else if (!strcmp(what, "ports")) ports();
    else if (!strcmp(what, "pipes")) pipes();
    else if (!strcmp(what, "names")) names();
    else if (!strcmp(what, "processes")) processes();
    else if (!strcmp(what, "serve")) serve();
    else if (!strcmp(what, "write_pipe")) write_pipe();
    else if (!strcmp(what, "spin")) { volatile int on = 1; while (on) {} }
    else if (!strcmp(what, "exit")) exit(42);
    else if (!strcmp(what, "trap")) __builtin_trap();
    else if (!strcmp(what, "env")) MUST(getenv("A") && !strcmp(getenv("A"), "b"));
    else MUST(!"a known case");
    return 0;
}
