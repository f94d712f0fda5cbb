/* The system as files: /proc, /port and /node. The first argument says what to be. Ends with 0 if all was as it should be. */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(condition) do { if (!(condition)) { printf("line %d: %s (errno %d)\n", __LINE__, #condition, errno); fflush(stdout); exit(1); } } while (0)

static char buffer[4096];

static char *slurp(const char *path) {
    int fd = open(path, O_RDONLY);
    MUST(fd >= 0);
    size_t length = 0;
    for (ssize_t more; (more = read(fd, buffer + length, sizeof buffer - 1 - length)) != 0; length += (size_t)more) MUST(more > 0);
    buffer[length] = 0;
    close(fd);
    return buffer;
}

/* A process of this very program; gives its pid. */
static int spawn(const char *what) {
    char spec[64], pid[32];
    int length = snprintf(spec, sizeof spec, "self\n%s\n", what);
    int fd = open("/proc/new", O_RDWR);
    MUST(fd >= 0 && write(fd, spec, (size_t)length) == length);
    ssize_t got = pread(fd, pid, sizeof pid - 1, 0);
    MUST(got > 1);
    pid[got] = 0;
    close(fd);
    return atoi(pid);
}

static void control(int pid, const char *command) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ctl", pid);
    int fd = open(path, O_WRONLY);
    MUST(fd >= 0);
    MUST(write(fd, command, strlen(command)) == (ssize_t)strlen(command));
    close(fd);
}

static const char *status(int pid) {
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    return slurp(path);
}

static void until(int pid, const char *state) {
    while (!strstr(status(pid), state)) usleep(1000);
}

static void proc(void) {
    MUST(strstr(slurp("/proc/self/status"), "name: files"));
    MUST(strstr(slurp("/node/status"), "processors: 2\n"));
    int fd = open("/proc/self/args", O_RDONLY);
    MUST(read(fd, buffer, sizeof buffer) == 11 && !memcmp(buffer, "files\0proc", 11));
    close(fd);
    MUST(open("/proc/99999999/status", O_RDONLY) < 0 && errno == ENOENT);
    MUST(open("/proc/self/status", O_WRONLY) < 0 && errno == EACCES);
    MUST(open("/proc/self/x", O_RDONLY) < 0 && errno == ENOENT);
    MUST(open("/proc/../proc/self/status", O_RDONLY) < 0);
    DIR *directory = opendir("/proc");
    MUST(directory);
    int found = 0;
    for (struct dirent *entry; (entry = readdir(directory));) found += !strcmp(entry->d_name, "self") || !strcmp(entry->d_name, "new");
    MUST(found == 2);
    closedir(directory);

    int pid = spawn("spin");
    until(pid, "state: running");
    control(pid, "stop");
    until(pid, "state: stopped");
    control(pid, "cont\n");
    until(pid, "state: running");
    control(pid, "kill");
    until(pid, "end: Killed");
    char path[64];
    snprintf(path, sizeof path, "/proc/%d/ctl", pid);
    fd = open(path, O_WRONLY);
    MUST(fd >= 0 && write(fd, "kill", 4) < 0 && errno == ESRCH);
    MUST(write(fd, "jump", 4) < 0 && errno == EINVAL);
    close(fd);
    pid = spawn("hello");
    until(pid, "end: Exited(3)");
    snprintf(path, sizeof path, "/proc/%d/log", pid);
    MUST(!strcmp(slurp(path), "hello\n"));
    MUST((fd = open("/proc/new", O_RDWR)) >= 0 && write(fd, "0123\n", 5) < 0 && errno == ENOENT);
}

static void port(void) {
    MUST(open("/port/box", O_WRONLY) < 0 && errno == ENOENT);
    int receiving = open("/port/box", O_RDONLY);
    MUST(receiving >= 0);
    MUST(open("/port/box", O_RDONLY) < 0 && errno == EBUSY);
    DIR *directory = opendir("/port");
    int found = 0;
    for (struct dirent *entry; (entry = readdir(directory));) found += !strcmp(entry->d_name, "box");
    MUST(found == 1);
    closedir(directory);
    struct pollfd waiting = { receiving, POLLIN, 0 };
    MUST(poll(&waiting, 1, 20) == 0);
    int pid = spawn("send");
    for (int number = 0; number < 100; number++) {
        char expected[32];
        int length = snprintf(expected, sizeof expected, "message %d", number);
        MUST(read(receiving, buffer, sizeof buffer) == length && !memcmp(buffer, expected, (size_t)length));
    }
    /* A message longer than the read comes in parts. */
    MUST(read(receiving, buffer, 3) == 3 && !memcmp(buffer, "the", 3));
    MUST(poll(&waiting, 1, 10000) == 1 && waiting.revents == POLLIN);
    MUST(read(receiving, buffer, sizeof buffer) == 5 && !memcmp(buffer, " last", 5));
    until(pid, "end: Exited(0)");
    close(receiving);
    while (open("/port/box", O_WRONLY) >= 0) usleep(1000);
    MUST(errno == ENOENT);
}

static void send_all(void) {
    int fd = open("/port/box", O_WRONLY);
    MUST(fd >= 0);
    for (int number = 0; number < 100; number++) {
        int length = snprintf(buffer, sizeof buffer, "message %d", number);
        MUST(write(fd, buffer, (size_t)length) == length);
    }
    MUST(write(fd, "the last", 8) == 8);
    close(fd);
}

int main(int argc, char **argv) {
    MUST(argc == 2);
    if (!strcmp(argv[1], "proc")) proc();
    else if (!strcmp(argv[1], "port")) port();
    else if (!strcmp(argv[1], "send")) send_all();
    else if (!strcmp(argv[1], "hello")) { puts("hello"); return 3; }
    else if (!strcmp(argv[1], "spin")) { volatile int on = 1; while (on) {} }
    else MUST(!"a known case");
    return 0;
}
