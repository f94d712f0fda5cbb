// Cases of the program as a whole: arguments, environment, clocks, random numbers, waiting, ending.
#include "conformance.h"
#include <stdalign.h>

static alignas(8) uint8_t text[4096];
static uint8_t *words[64];

// What the harness gives: see daemon/tests/wasi.rs and cli/tests/wasi.rs.
static const char *const ARGUMENTS[] = {0, "first", "the \"second\" arg", "3"};
static const char *const VARIABLES[] = {"a=text", "b=escap \" ing", "c=new\nline"};

static void args(size_t expected) {
    size_t count, bytes, sum = 0;
    OK(__wasi_args_sizes_get(&count, &bytes));
    MUST(count == expected && bytes <= sizeof text);
    OK(__wasi_args_get(words, text));
    for (size_t i = 0; i < count; i++) {
        if (ARGUMENTS[i]) MUST(!strcmp((char *)words[i], ARGUMENTS[i]));
        sum += strlen((char *)words[i]) + 1;
    }
    MUST(sum == bytes);
}

static void args_many(void) { args(4); }

static void args_none(void) { args(1); }

static void environ(size_t expected) {
    size_t count, bytes, sum = 0;
    OK(__wasi_environ_sizes_get(&count, &bytes));
    MUST(count == expected && bytes <= sizeof text);
    OK(__wasi_environ_get(words, text));
    for (size_t i = 0; i < count; i++) {
        MUST(!strcmp((char *)words[i], VARIABLES[i]));
        sum += strlen((char *)words[i]) + 1;
    }
    MUST(sum == bytes);
}

static void environ_many(void) { environ(3); }

static void environ_none(void) { environ(0); }

static void big_random_buf(void) {
    static uint8_t large[1 << 20];
    OK(__wasi_random_get(large, sizeof large));
    // No page of it is left as it was.
    for (size_t page = 0; page < sizeof large; page += 4096) {
        size_t at = page;
        while (at < page + 4096 && !large[at]) at++;
        MUST(at < page + 4096);
    }
}

static void random_zero_length(void) { OK(__wasi_random_get(text, 0)); }

static void random_non_zero_length(void) {
    uint8_t other[32];
    OK(__wasi_random_get(text, 32));
    OK(__wasi_random_get(other, 32));
    MUST(memcmp(text, other, 32));
}

static void clock_resolution(__wasi_clockid_t clock) {
    __wasi_timestamp_t ns = 0;
    OK(__wasi_clock_res_get(clock, &ns));
    MUST(ns > 0 && ns <= 1000000000);
}

static void res_monotonic(void) { clock_resolution(__WASI_CLOCKID_MONOTONIC); }

static void res_realtime(void) { clock_resolution(__WASI_CLOCKID_REALTIME); }

static void time_monotonic(void) {
    __wasi_timestamp_t first, second;
    OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 1, &first));
    for (int i = 0; i < 1000; i++) {
        OK(__wasi_clock_time_get(__WASI_CLOCKID_MONOTONIC, 0, &second));
        MUST(first <= second);
        first = second;
    }
}

static void time_realtime(void) {
    __wasi_timestamp_t ns;
    OK(__wasi_clock_time_get(__WASI_CLOCKID_REALTIME, 0, &ns));
    // After the year 2020, before 2200.
    MUST(ns > 1577836800000000000ull && ns < 7258118400000000000ull);
    GIVES(__wasi_clock_time_get(77, 0, &ns), E(INVAL));
}

static void sched_yield(void) { OK(__wasi_sched_yield()); }

static void exit_success(void) { __wasi_proc_exit(0); }

static void exit_failure(void) { __wasi_proc_exit(33); }

static void write_to_invalid_fd(void) {
    __wasi_ciovec_t part = {(const uint8_t *)"x", 1};
    size_t count;
    GIVES(__wasi_fd_write(999, &part, 1, &count), E(BADF));
}

static void write_to_stdout(void) { MUST(written(1, "hello from wasi\n", 16) == 16); }

static __wasi_subscription_t timer(__wasi_timestamp_t timeout_ns) {
    __wasi_subscription_t clock = {.userdata = 100, .u.tag = __WASI_EVENTTYPE_CLOCK};
    clock.u.u.clock = (__wasi_subscription_clock_t){.id = __WASI_CLOCKID_MONOTONIC, .timeout = timeout_ns};
    return clock;
}

static void poll_oneoff_stdio(void) {
    __wasi_subscription_t subscriptions[3] = {timer(200000000), {.userdata = 10, .u.tag = __WASI_EVENTTYPE_FD_READ}};
    subscriptions[1].u.u.fd_read.file_descriptor = 0;
    __wasi_event_t events[3];
    size_t count = 0;
    // Input, or the time: either.
    OK(__wasi_poll_oneoff(subscriptions, events, 2, &count));
    MUST(count >= 1 && count <= 2);
    for (size_t i = 0; i < count; i++) {
        MUST(events[i].error == 0);
        MUST(events[i].type == __WASI_EVENTTYPE_CLOCK ? events[i].userdata == 100 : events[i].userdata == 10);
    }
    // Both outputs, long before the time.
    bool ready[3] = {false};
    while (!ready[1] || !ready[2]) {
        size_t asked = 0;
        for (fd_t fd = 1; fd < 3; fd++) {
            if (ready[fd]) continue;
            subscriptions[asked] = (__wasi_subscription_t){.userdata = fd, .u.tag = __WASI_EVENTTYPE_FD_WRITE};
            subscriptions[asked++].u.u.fd_write.file_descriptor = fd;
        }
        subscriptions[asked++] = timer(60000000000);
        OK(__wasi_poll_oneoff(subscriptions, events, asked, &count));
        MUST(count >= 1);
        for (size_t i = 0; i < count; i++) {
            MUST(events[i].error == 0 && events[i].type == __WASI_EVENTTYPE_FD_WRITE && events[i].userdata < 3);
            ready[events[i].userdata] = true;
        }
    }
    GIVES(__wasi_poll_oneoff(subscriptions, events, 0, &count), E(INVAL));
}

const struct test_case program[] = {
    {"args_get-multiple-arguments", args_many},
    {"args_sizes_get-multiple-arguments", args_many},
    {"args_sizes_get-no-arguments", args_none},
    {"environ_get-multiple-variables", environ_many},
    {"environ_sizes_get-multiple-variables", environ_many},
    {"environ_sizes_get-no-variables", environ_none},
    {"big_random_buf", big_random_buf},
    {"random_get-zero-length", random_zero_length},
    {"random_get-non-zero-length", random_non_zero_length},
    {"clock_getres-monotonic", res_monotonic},
    {"clock_getres-realtime", res_realtime},
    {"clock_gettime-monotonic", time_monotonic},
    {"clock_gettime-realtime", time_realtime},
    {"clock_time_get", time_monotonic},
    {"sched_yield", sched_yield},
    {"proc_exit-success", exit_success},
    {"proc_exit-failure", exit_failure},
    {"fd_write-to-invalid-fd", write_to_invalid_fd},
    {"fd_write-to-stdout", write_to_stdout},
    {"poll_oneoff_stdio", poll_oneoff_stdio},
    {0, 0},
};
