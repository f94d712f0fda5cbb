// A server that counts, and clients that write down every answer: whatever becomes of the nodes under them, each call counts once.
//
//   durable serve NAME              binds /port/NAME, and answers until it is asked to end; prints a line for each call
//   durable call NAME ID COUNT MS   calls COUNT times, with a pause between; prints a line for each answer
//   durable send NAME ID COUNT MS   sends as often, and prints when each was taken
//   durable count NAME             serves too, and prints nothing: for many clients at once
//   durable hammer NAME MS         calls so long as fast as it can, and prints how often
//   durable end NAME                asks the server to end, and prints how often it was called
//   durable wake NAME MS            binds a name, and prints what a timer and a message bring
//   durable refused                 tries what a durable process cannot do
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <una.h>

#define CLIENTS 8
#define END UINT32_MAX

typedef struct {
    uint32_t client, number, answered;
} request;

typedef struct {
    uint32_t number, total;
} answer;

static void fail(const char *what, int code) {
    printf("%s: %d\n", what, code);
    exit(1);
}

static void ok(const char *what, int code) {
    if (code != UNA_OK) fail(what, code);
}

static void nap(long ms) {
    struct timespec duration = {.tv_sec = ms / 1000, .tv_nsec = ms % 1000 * 1000000L};
    if (ms > 0) nanosleep(&duration, NULL);
}

static una_handle bound(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/port/%s", name);
    una_handle port;
    ok("create", una_port_create(64, 1 << 16, 0, &port));
    ok("bind", una_bind(path, port));
    return port;
}

static una_handle found(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/port/%s", name);
    una_handle port;
    ok("lookup", una_lookup(path, &port));
    return port;
}

static void count_calls(const char *name) {
    una_handle port = bound(name);
    uint32_t total = 0;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        request asked;
        una_message message;
        ok("receive", una_receive(port, &asked, sizeof asked, &message, UNA_FOREVER));
        answer said = {asked.number, ++total};
        if (message.reply) ok("reply", una_reply(message.reply, &said, sizeof said, NULL, 0));
    }
}

static void serve(const char *name) {
    una_handle port = bound(name);
    uint32_t last[CLIENTS] = {0}, total = 0;
    printf("ready\n");
    fflush(stdout);
    for (;;) {
        request asked;
        una_message message;
        ok("receive", una_receive(port, &asked, sizeof asked, &message, UNA_FOREVER));
        if (message.length != sizeof asked || (asked.client != END && asked.client >= CLIENTS)) fail("length", (int)message.length);
        if (asked.client != END) {
            if (asked.number != ++last[asked.client]) fail("number", (int)asked.number);
            printf("%u %u %u\n", asked.client, asked.number, ++total);
            fflush(stdout);
        }
        answer said = {asked.number, total};
        if ((message.reply != 0) != (asked.answered != 0)) fail("reply", (int)message.reply);
        if (message.reply) ok("reply", una_reply(message.reply, &said, sizeof said, NULL, 0));
        if (asked.client == END) return;
    }
}

static answer call(una_handle port, request asked) {
    answer said;
    una_answer result;
    ok("call", una_call(port, &asked, sizeof asked, NULL, 0, &said, sizeof said, &result, una_after_ms(120000)));
    if (result.length != sizeof said || said.number != asked.number) fail("answer", (int)said.number);
    return said;
}

static void ask(const char *name, uint32_t id, uint32_t count, long ms, int is_called) {
    una_handle port = found(name);
    for (uint32_t number = 1; number <= count; number++) {
        request asked = {id, number, (uint32_t)is_called};
        uint32_t total = 0;
        if (is_called) {
            total = call(port, asked).total;
        } else {
            ok("send", una_send(port, &asked, sizeof asked, NULL, 0, una_after_ms(120000)));
        }
        printf("%u %u\n", number, total);
        fflush(stdout);
        nap(ms);
    }
    printf("done\n");
}

static void hammer(const char *name, uint64_t ms) {
    una_handle port = found(name);
    uint64_t until = una_after_ms(ms);
    uint32_t number = 0;
    while (una_after_ms(0) < until) {
        number++;
        call(port, (request){0, number, 1});
    }
    printf("%u\n", number);
}

static void wake(const char *name, long ms) {
    una_handle port = bound(name), timer;
    ok("timer", una_timer(una_after_ms((uint64_t)ms), port, 7, &timer));
    printf("ready\n");
    fflush(stdout);
    for (int events = 0; events < 2; events++) {
        char text[64];
        una_message message;
        ok("receive", una_receive(port, text, sizeof text, &message, UNA_FOREVER));
        if (message.kind == UNA_NOTICE) {
            printf("timer %llu %u\n", (unsigned long long)message.token, message.event);
        } else {
            printf("message %.*s\n", (int)message.length, text);
        }
        fflush(stdout);
    }
}

static void refused(void) {
    una_handle port, other;
    uint32_t rights;
    ok("create", una_port_create(4, 64, 0, &port));
    ok("rights", una_rights(port, &rights));
    printf("%d", una_duplicate(port, UNA_RIGHT_SEND, &other));
    printf(" %d", una_port_badge(port, 1, UNA_RIGHT_SEND, &other));
    printf(" %d", una_pipe_create(64, &other));
    printf(" %d", una_watch(port, port, 1, &other));
    una_spawned spawned;
    printf(" %d", una_spawn(-1, "a", 2, "", 0, NULL, 0, &spawned));
    una_transfer transfer = {.handle = port};
    ok("bind", una_bind("/port/refused", port));
    ok("lookup", una_lookup("/port/refused", &other));
    printf(" %d", una_send(other, "x", 1, &transfer, 1, UNA_NOW));
    printf(" %d", una_port_create(1, 0, 0, &other));
    una_message message;
    printf(" %d", una_receive(port, NULL, 0, &message, UNA_NOW));
    printf(" %d\n", una_close(99));
    ok("close", una_close(port));
}

int main(int count, char **words) {
    const char *what = count > 1 ? words[1] : "";
    if (!strcmp(what, "serve") && count == 3) serve(words[2]);
    else if (!strcmp(what, "call") && count == 6) ask(words[2], (uint32_t)atoi(words[3]), (uint32_t)atoi(words[4]), atol(words[5]), 1);
    else if (!strcmp(what, "send") && count == 6) ask(words[2], (uint32_t)atoi(words[3]), (uint32_t)atoi(words[4]), atol(words[5]), 0);
    else if (!strcmp(what, "count") && count == 3) count_calls(words[2]);
    else if (!strcmp(what, "hammer") && count == 4) hammer(words[2], (uint64_t)atol(words[3]));
    else if (!strcmp(what, "end") && count == 3) printf("%u\n", call(found(words[2]), (request){END, 0, 1}).total);
    else if (!strcmp(what, "wake") && count == 4) wake(words[2], atol(words[3]));
    else if (!strcmp(what, "refused") && count == 2) refused();
    else return 2;
    return 0;
}
