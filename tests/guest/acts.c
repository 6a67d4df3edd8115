// SPDX-License-Identifier: GPL-2.0-or-later
// The only program of the guests that tests/make_guest_images.py takes its fixtures from: init, the actors, and
// the witness. It tells the host through the debug console (port 0xe9) what it is about to do, before it does it,
// and in the end what /proc says of every process. Bytes are told in hex.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/netlink.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static void put(const char *s) { while (*s) outb(*s++, 0xe9); }

static void say(const char *format, ...)
{
    static char line[65536];
    va_list args;
    va_start(args, format);
    vsnprintf(line, sizeof line, format, args);
    va_end(args);
    put(line);
}

static const char *hex(const void *data, int size)
{
    static char ring[8][40000];
    static int next;
    char *out = ring[next++ & 7], *at = out;
    for (int i = 0; i < size && at < out + sizeof ring[0] - 3; i++) at += sprintf(at, "%02x", ((unsigned char *)data)[i]);
    *at = 0;
    return out;
}

static const char *hexs(const char *s) { return hex(s, strlen(s)); }

static void file(const char *path, const char *text)
{
    int fd = open(path, O_CREAT | O_WRONLY | O_TRUNC, 0644);
    if (write(fd, text, strlen(text)) < 0) say("{\"warning\": \"write %s\"}\n", path);
    close(fd);
}

// Runs an act in a process of its own.
static void in_child(void (*act)(void))
{
    pid_t child = fork();
    if (!child) { act(); _exit(0); }
    waitpid(child, NULL, 0);
}

static void try_open(const char *name, const char *full, int flags)
{
    say("{\"act\": \"open\", \"pid\": %d, \"name\": \"%s\", \"full\": \"%s\", \"flags\": %d, \"error\": %d}\n", getpid(),
        hexs(name), hexs(full), flags, access(name, F_OK) && !(flags & O_CREAT) ? ENOENT : 0);
    int fd = open(name, flags, 0640);
    if (fd >= 0) close(fd);
}

static char long_name[256], long_path[600];

static void opens(void)
{
    if (chdir("/tmp/deep/dir with space")) return;
    try_open("a file", "/tmp/deep/dir with space/a file", O_RDONLY);
    try_open("./new", "/tmp/deep/dir with space/new", O_RDWR | O_CREAT | O_TRUNC);
    try_open("../../bad\xff\xfe\nname", "/tmp/bad\xff\xfe\nname", O_RDONLY);
    try_open("/tmp/mnt/inner/x", "/tmp/mnt/inner/x", O_RDONLY);
    try_open("/tmp/bound/a file", "/tmp/bound/a file", O_RDONLY);
    try_open("/tmp/none", "", O_RDONLY);
    memset(long_name, 'L', 255);
    snprintf(long_path, sizeof long_path, "/tmp/%s", long_name);
    try_open(long_path, long_path, O_WRONLY | O_CREAT);
}

static void deleted(void)
{
    char self[64];
    int fd = open("/tmp/gone", O_CREAT | O_RDWR, 0600);
    unlink("/tmp/gone");
    snprintf(self, sizeof self, "/proc/self/fd/%d", fd);
    say("{\"act\": \"open\", \"pid\": %d, \"name\": \"%s\", \"full\": \"%s\", \"flags\": 0, \"error\": 0, \"deleted\": 1}\n", getpid(),
        hexs(self), hexs("/tmp/gone"));
    open(self, O_RDONLY);
}

static void run(const char *path, char **argv, const char *seen_file, const char *seen_argv)
{
    char all[20000] = "", cwd[300];
    if (!getcwd(cwd, sizeof cwd)) return;
    for (char **one = argv; *one && !seen_argv; one++) {
        strcat(all, one == argv ? "\"" : ", \"");
        strcat(strcat(all, hexs(*one)), "\"");
    }
    say("{\"act\": \"exec\", \"pid\": %d, \"name\": \"%s\", \"file\": \"%s\", \"argv\": [%s], \"cwd\": \"%s\"}\n", getpid(), hexs(path),
        hexs(seen_file), seen_argv ? seen_argv : all, hexs(cwd));
    execve(path, argv, environ);
    say("{\"warning\": \"exec %d\"}\n", errno);
}

static void exec_plain(void)
{
    static char large[6000];
    memset(large, 'A', sizeof large - 1);
    if (chdir("/tmp/deep")) return;
    run("/bin/acts", (char *[]){"odd name\xff", "exit", "", "two words", large, "last", NULL}, "/bin/acts", NULL);
}

static void exec_script(void)
{
    char list[400] = "";
    const char *argv[] = {"/bin/acts", "-e", "/tmp/script", "one", NULL};
    for (const char **one = argv; *one; one++) strcat(strcat(strcat(list, one == argv ? "\"" : ", \""), hexs(*one)), "\"");
    run("/tmp/script", (char *[]){"dropped", "one", NULL}, "/bin/acts", list);
}

static void exec_memfd(void)
{
    int in = open("/bin/acts", O_RDONLY), out = memfd_create("evil", 0);
    char buffer[65536], path[64];
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) if (write(out, buffer, n) != n) return;
    close(in);
    snprintf(path, sizeof path, "/proc/self/fd/%d", out);
    run(path, (char *[]){"kworker/0:0", "pause", NULL}, "/memfd:evil", NULL);
}

static void tell_address(const char *act, int family, const char *address, int port, int type)
{
    say("{\"act\": \"%s\", \"pid\": %d, \"family\": %d, \"address\": \"%s\", \"port\": %d, \"type\": %d}\n", act, getpid(), family,
        hexs(address), port, type);
}

static int unix_address(struct sockaddr_un *un, const char *name, int abstract)
{
    memset(un, 0, sizeof *un);
    un->sun_family = AF_UNIX;
    memcpy(un->sun_path + abstract, name, strlen(name));
    return offsetof(struct sockaddr_un, sun_path) + abstract + strlen(name) + !abstract;
}

static void sockets(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(4444), .sin_addr.s_addr = inet_addr("127.0.0.1")};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(8443)};
    struct sockaddr_un un;
    int on = 1;
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    tell_address("bind", AF_INET, "127.0.0.1", 4444, SOCK_STREAM);
    bind(listener, (void *)&in, sizeof in);
    tell_address("listen", AF_INET, "127.0.0.1", 4444, SOCK_STREAM);
    listen(listener, 5);
    tell_address("connect", AF_INET, "127.0.0.1", 4444, SOCK_STREAM);
    connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&in, sizeof in);
    in.sin_addr.s_addr = inet_addr("203.0.113.77");
    in.sin_port = htons(25);
    tell_address("connect", AF_INET, "203.0.113.77", 25, SOCK_STREAM);
    connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&in, sizeof in);
    inet_pton(AF_INET6, "2001:db8::1:2", &in6.sin6_addr);
    tell_address("connect", AF_INET6, "2001:db8::1:2", 8443, SOCK_STREAM);
    connect(socket(AF_INET6, SOCK_STREAM, 0), (void *)&in6, sizeof in6);
    int size = unix_address(&un, "/tmp/a socket", 0);
    tell_address("bind", AF_UNIX, "/tmp/a socket", -1, SOCK_STREAM);
    int server = socket(AF_UNIX, SOCK_STREAM, 0);
    bind(server, (void *)&un, size);
    listen(server, 5);
    tell_address("connect", AF_UNIX, "/tmp/a socket", -1, SOCK_STREAM);
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, size);
    size = unix_address(&un, "hidden\xff", 1);
    tell_address("bind", AF_UNIX, "@hidden\xff", -1, SOCK_DGRAM);
    bind(socket(AF_UNIX, SOCK_DGRAM, 0), (void *)&un, size);
}

static void datagrams(void)
{
    static char query[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x04pool\x07minexmr\x03""com\x00\x00\x1c\x00\x01";
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = inet_addr("127.0.0.1")};
    struct iovec parts[] = {{query, 7}, {query + 7, sizeof query - 1 - 7}};
    struct msghdr message = {.msg_name = &in, .msg_namelen = sizeof in, .msg_iov = parts, .msg_iovlen = 2};
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    const char *what = "\"dns\": \"pool.minexmr.com\", \"dns_type\": \"AAAA\"";
    say("{\"act\": \"send\", \"pid\": %d, \"address\": \"%s\", \"port\": 53, \"payload\": \"%s\", %s}\n", getpid(), hexs("127.0.0.1"),
        hex(query, sizeof query - 1), what);
    sendto(udp, query, sizeof query - 1, 0, (void *)&in, sizeof in);
    say("{\"act\": \"send\", \"parts\": 2, \"pid\": %d, \"address\": \"%s\", \"port\": 53, \"payload\": \"%s\", %s}\n", getpid(), hexs("127.0.0.1"),
        hex(query, sizeof query - 1), what);
    sendmsg(udp, &message, 0);
}

static void connected(void)
{
    static char query[] = "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x03odd\x04\x2e\x00\xff" "z\x00\x00\x10\x00\x01";
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(53), .sin_addr.s_addr = inet_addr("127.0.0.1")};
    int udp = socket(AF_INET, SOCK_DGRAM, 0);
    connect(udp, (void *)&in, sizeof in);
    say("{\"act\": \"write socket\", \"pid\": %d, \"address\": \"%s\", \"port\": 53, \"payload\": \"%s\", \"dns\": \"%s\", "
        "\"dns_type\": \"TXT\"}\n", getpid(), hexs("127.0.0.1"), hex(query, sizeof query - 1), "odd.\\\\.\\\\000\\\\255z");
    if (write(udp, query, sizeof query - 1) < 0) say("{\"warning\": \"write\"}\n");
}

static void writes(void)
{
    static char data[9000];
    int fd = open("/tmp/deep/written", O_CREAT | O_RDWR, 0644);
    memset(data, 'w', sizeof data);
    data[8999] = 0;
    say("{\"act\": \"write\", \"pid\": %d, \"full\": \"%s\", \"data\": \"%s\"}\n", getpid(), hexs("/tmp/deep/written"),
        hex(data, sizeof data));
    if (write(fd, data, sizeof data) < 0) say("{\"warning\": \"write\"}\n");
    say("{\"act\": \"mmap\", \"pid\": %d, \"full\": \"%s\", \"prot\": 5}\n", getpid(), hexs("/tmp/deep/written"));
    mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE, fd, 0);
    say("{\"act\": \"fork\", \"pid\": %d}\n", getpid());
    if (!fork()) _exit(0);
    wait(NULL);
}

static void changes(void)
{
    file("/tmp/mnt/inner/victim", "x");
    say("{\"act\": \"unlink\", \"pid\": %d, \"full\": \"%s\"}\n", getpid(), hexs("/tmp/mnt/inner/victim"));
    unlink("/tmp/mnt/inner/victim");
    file("/tmp/deep/old", "x");
    say("{\"act\": \"rename\", \"pid\": %d, \"full\": \"%s\", \"new\": \"%s\"}\n", getpid(), hexs("/tmp/deep/old"), hexs("/tmp/deep/new name"));
    rename("/tmp/deep/old", "/tmp/deep/new name");
    say("{\"act\": \"chmod\", \"pid\": %d, \"full\": \"%s\", \"mode\": 448}\n", getpid(), hexs("/tmp/deep/new name"));
    chmod("/tmp/deep/new name", 0700);
    say("{\"act\": \"exit\", \"pid\": %d, \"code\": 7}\n", getpid());
    _exit(7);
}

static void stay(void (*prepare)(void))
{
    if (fork()) return;
    prepare();
    for (;;) pause();
}

static void as_user(void)
{
    gid_t none[] = {4242};
    setgroups(1, none);
    if (setgid(1001) || setresuid(1000, 1002, 1003)) say("{\"warning\": \"setuid\"}\n");
}

static void contained(void)
{
    const char *path = "/sys/fs/cgroup/system.slice/docker-0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef.scope";
    char procs[300];
    mkdir("/sys/fs/cgroup/system.slice", 0755);
    mkdir(path, 0755);
    snprintf(procs, sizeof procs, "%s/cgroup.procs", path);
    file(procs, "0");
    if (unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWUTS)) say("{\"warning\": \"unshare\"}\n");
    if (fork()) for (;;) pause();
    mkdir("/tmp/container", 0755);
    mount("tmpfs", "/tmp/container", "tmpfs", 0, NULL);
    mkdir("/tmp/container/bin", 0755);
    if (chdir("/tmp/container") || chroot(".") || chdir("/")) say("{\"warning\": \"chroot\"}\n");
    open("/bin", O_RDONLY);
}

static void deleted_program(void)
{
    char buffer[65536];
    int in = open("/bin/acts", O_RDONLY), out = open("/tmp/dropper", O_CREAT | O_WRONLY, 0755);
    for (ssize_t n; (n = read(in, buffer, sizeof buffer)) > 0;) if (write(out, buffer, n) != n) return;
    close(in);
    close(out);
    execl("/tmp/dropper", "dropper", "erase", NULL);
}

static void many_descriptors(void)
{
    int pipes[2], pair[2];
    struct sockaddr_un un;
    if (pipe(pipes) || socketpair(AF_UNIX, SOCK_STREAM, 0, pair)) return;
    int udp = socket(AF_INET6, SOCK_DGRAM, 0);
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(5353)};
    bind(udp, (void *)&in6, sizeof in6);
    int named = socket(AF_UNIX, SOCK_DGRAM, 0);
    bind(named, (void *)&un, unix_address(&un, "kept", 1));
    for (int i = 0; i < 100; i++) dup2(0, 100 + i);
    open("/tmp/deep/dir with space/a file", O_RDWR | O_APPEND);
    open("/proc/self/ns/net", O_RDONLY);
    memfd_create("kept", 0);
    int epoll_create1(int);
    epoll_create1(0);
}

// Leaves a socket of each kind and state behind: listening, connected, not yet accepted, waiting for its end, bound.
static void hold_sockets(void)
{
    struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(2222), .sin_addr.s_addr = inet_addr("127.0.0.1")};
    struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(8080), .sin6_addr = IN6ADDR_ANY_INIT};
    struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(8080), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    struct sockaddr_un un;
    int on = 1;
    int server = socket(AF_INET, SOCK_STREAM, 0), server6 = socket(AF_INET6, SOCK_STREAM, 0);
    setsockopt(server, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (bind(server, (void *)&in, sizeof in) || listen(server, 7)) say("{\"warning\": \"listen\"}\n");
    if (bind(server6, (void *)&in6, sizeof in6) || listen(server6, 7)) say("{\"warning\": \"listen6\"}\n");
    int ended = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(ended, (void *)&in, sizeof in)) say("{\"warning\": \"connect\"}\n");
    int taken = accept(server, NULL, NULL);
    close(ended);
    close(taken); // the one that ended first waits
    connect(socket(AF_INET, SOCK_STREAM, 0), (void *)&in, sizeof in);
    accept(server, NULL, NULL);
    connect(socket(AF_INET6, SOCK_STREAM, 0), (void *)&to, sizeof to); // never accepted
    int half = socket(AF_INET, SOCK_STREAM, 0);
    connect(half, (void *)&in, sizeof in);
    int other = accept(server, NULL, NULL);
    close(other); // half is in CLOSE_WAIT, the other end belongs to nobody
    int udp = socket(AF_INET, SOCK_DGRAM, 0), udp6 = socket(AF_INET6, SOCK_DGRAM, 0);
    in.sin_port = htons(5300);
    in6.sin6_port = htons(5301);
    bind(udp, (void *)&in, sizeof in);
    bind(udp6, (void *)&in6, sizeof in6);
    int talking = socket(AF_INET, SOCK_DGRAM, 0);
    connect(talking, (void *)&in, sizeof in);
    socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
    int local = socket(AF_UNIX, SOCK_STREAM, 0);
    int size = unix_address(&un, "/tmp/held", 0);
    bind(local, (void *)&un, size);
    listen(local, 3);
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, size); // never accepted
    connect(socket(AF_UNIX, SOCK_STREAM, 0), (void *)&un, size);
    accept(local, NULL, NULL);
    socket(AF_NETLINK, SOCK_RAW, NETLINK_ROUTE);
    int shared = socket(AF_INET, SOCK_STREAM, 0);
    (void)shared;
    if (!fork()) { close(server6); for (;;) pause(); }
}

static void hold_maps(void)
{
    int fd = open("/tmp/deep/dir with space/a file", O_RDONLY);
    mmap(NULL, 4096, PROT_READ, MAP_PRIVATE, fd, 0);
    int gone = open("/tmp/mapped and gone", O_CREAT | O_RDWR, 0755), memory = memfd_create("mapped", 0);
    if (ftruncate(gone, 3 * 4096) || ftruncate(memory, 4096)) return;
    mmap(NULL, 2 * 4096, PROT_READ | PROT_EXEC, MAP_SHARED, gone, 4096);
    unlink("/tmp/mapped and gone");
    mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE, memory, 0);
    mmap(NULL, 8192, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (int i = 0; i < 150; i++) // more regions than one node of a maple tree holds
        mmap(NULL, 4096, i & 1 ? PROT_READ : PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
}

static void load_modules(void)
{
    DIR *folder = opendir("/modules");
    for (int round = 0; folder && round < 3; round++, rewinddir(folder)) // those that need others come again
        for (struct dirent *one; (one = readdir(folder));) {
            char path[300];
            snprintf(path, sizeof path, "/modules/%s", one->d_name);
            int fd = open(path, O_RDONLY);
            if (one->d_name[0] != '.') syscall(SYS_finit_module, fd, "", 0);
            close(fd);
        }
}

static char *slurp(const char *path, int *size)
{
    static char data[70000];
    int fd = open(path, O_RDONLY);
    *size = 0;
    for (ssize_t n; fd >= 0 && (n = read(fd, data + *size, sizeof data - 1 - *size)) > 0;) *size += n;
    data[*size] = 0;
    if (fd >= 0) close(fd);
    return data;
}

static void tell_link(const char *key, const char *pid, const char *name)
{
    char path[300], target[4200];
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    ssize_t size = readlink(path, target, sizeof target);
    if (size >= 0) say(", \"%s\": \"%s\"", key, hex(target, size));
}

static void tell_bytes(const char *pid, const char *name)
{
    char path[300];
    int size;
    snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
    char *data = slurp(path, &size);
    say(", \"%s\": \"%s\"", name, hex(data, size));
}

static void census(void)
{
    DIR *proc = opendir("/proc");
    int size;
    unsigned hash = ~0u, count = 0;
    FILE *symbols = fopen("/proc/kallsyms", "r");
    char line[700];
    while (fgets(line, sizeof line, symbols)) {
        if (strchr(line, '[')) continue; // of a module
        for (char *at = line; *at; at++) {
            hash ^= (unsigned char)*at;
            for (int bit = 0; bit < 8; bit++) hash = hash >> 1 ^ (hash & 1 ? 0xedb88320 : 0); // CRC-32
        }
        count++;
    }
    say("{\"kallsyms\": %u, \"crc\": %u}\n", count, ~hash);
    static const char *whole[] = {"/proc/modules", "/proc/uptime", "/proc/sys/kernel/hostname", "/proc/sys/kernel/osrelease",
        "/proc/sys/kernel/version", "/proc/sys/kernel/tainted", "/proc/cmdline"};
    char *data = slurp("/proc/version", &size);
    say("{\"version\": \"%s\"}\n", hex(data, size));
    for (unsigned i = 0; i < sizeof whole / sizeof *whole; i++) {
        data = slurp(whole[i], &size);
        say("{\"%s\": \"%s\"}\n", strcmp(whole[i], "/proc/sys/kernel/version") ? strrchr(whole[i], '/') + 1 : "build", hex(data, size));
    }
    data = slurp("/sys/kernel/notes", &size);
    say("{\"notes\": \"%s\"}\n", hex(data, size));
    for (struct dirent *one; (one = readdir(proc));) {
        if (one->d_name[0] < '0' || one->d_name[0] > '9') continue;
        say("{\"process\": %s", one->d_name);
        tell_bytes(one->d_name, "stat");
        tell_bytes(one->d_name, "status");
        tell_bytes(one->d_name, "cmdline");
        tell_bytes(one->d_name, "environ");
        tell_bytes(one->d_name, "cgroup");
        tell_link("exe", one->d_name, "exe");
        tell_link("cwd", one->d_name, "cwd");
        tell_link("root", one->d_name, "root");
        tell_link("pid_ns", one->d_name, "ns/pid");
        tell_link("mnt_ns", one->d_name, "ns/mnt");
        tell_link("net_ns", one->d_name, "ns/net");
        tell_bytes(one->d_name, "mountinfo");
        tell_bytes(one->d_name, "maps");
        static const char *tables[] = {"net/tcp", "net/tcp6", "net/udp", "net/udp6", "net/raw", "net/unix"};
        for (int i = 0; i < 6; i++) tell_bytes(one->d_name, tables[i]);
        char path[600];
        snprintf(path, sizeof path, "/proc/%s/fd", one->d_name);
        DIR *table = opendir(path);
        say(", \"fds\": {\"-1\": {\"x\": 0");
        for (struct dirent *fd; table && (fd = readdir(table));) {
            struct stat st;
            if (fd->d_name[0] == '.') continue;
            snprintf(path, sizeof path, "fd/%s", fd->d_name);
            say("}, \"%s\": {\"x\": 0", fd->d_name);
            tell_link("path", one->d_name, path);
            snprintf(path, sizeof path, "/proc/%s/fd/%s", one->d_name, fd->d_name);
            if (!stat(path, &st))
                say(", \"ino\": %lu, \"mode\": %u, \"nlink\": %lu, \"size\": %ld, \"dev\": \"%u:%u\"", st.st_ino, st.st_mode,
                    st.st_nlink, st.st_size, major(st.st_dev), minor(st.st_dev));
        }
        say("}}}\n");
        if (table) closedir(table);
    }
    closedir(proc);
}

int main(int argc, char **argv)
{
    if (getpid() != 1) { // started by an act
        if (argc > 1 && !strcmp(argv[1], "pause")) for (;;) pause();
        if (argc > 1 && !strcmp(argv[1], "erase")) { unlink("/tmp/dropper"); for (;;) pause(); }
        return 0;
    }
    iopl(3);
    mkdir("/proc", 0755); mkdir("/sys", 0755); mkdir("/dev", 0755); mkdir("/tmp", 0755);
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("dev", "/dev", "devtmpfs", 0, NULL);
    mount("tmpfs", "/tmp", "tmpfs", 0, NULL);
    mount("cgroup2", "/sys/fs/cgroup", "cgroup2", 0, NULL);
    mkdir("/tmp/deep", 0755); mkdir("/tmp/deep/dir with space", 0755); mkdir("/tmp/mnt", 0755); mkdir("/tmp/bound", 0755);
    mount("tmpfs", "/tmp/mnt", "tmpfs", 0, NULL);
    mkdir("/tmp/mnt/inner", 0755);
    mount("ramfs", "/tmp/mnt/inner", "ramfs", 0, NULL);
    mount("/tmp/deep/dir with space", "/tmp/bound", NULL, MS_BIND, NULL);
    file("/tmp/deep/dir with space/a file", "hello\n");
    file("/tmp/bad\xff\xfe\nname", "x");
    file("/tmp/mnt/inner/x", "x");
    file("/tmp/script", "#!/bin/acts -e\n");
    chmod("/tmp/script", 0755);
    if (sethostname("scanned", 7)) say("{\"warning\": \"hostname\"}\n");
    load_modules();
    struct ifreq lo = {.ifr_name = "lo", .ifr_flags = IFF_UP};
    ioctl(socket(AF_INET, SOCK_DGRAM, 0), SIOCSIFFLAGS, &lo);
    char line[16];
    int console = open("/dev/ttyS0", O_RDWR);
    say("{\"ready\": 1}\n");
    if (read(console, line, sizeof line) < 0) say("{\"warning\": \"console\"}\n");
    in_child(opens);
    in_child(deleted);
    in_child(exec_plain);
    in_child(exec_script);
    in_child(sockets);
    in_child(datagrams);
    in_child(connected);
    in_child(writes);
    in_child(changes);
    stay(exec_memfd);
    stay(as_user);
    stay(contained);
    stay(deleted_program);
    stay(many_descriptors);
    stay(hold_sockets);
    stay(hold_maps);
    sleep(1);
    say("{\"acts\": \"done\"}\n");
    census();
    say("{\"census\": \"done\"}\n");
    for (;;) pause();
}
