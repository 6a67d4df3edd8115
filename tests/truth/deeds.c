/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Does what shells and utilities do not: sockets of all kinds, odd opens, odd execs. Run under strace, which tells. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <netinet/in.h>
#include <pthread.h>
#include <spawn.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static struct sockaddr_in four(const char *address, int port)
{
	struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(port)};
	inet_pton(AF_INET, address, &to.sin_addr);
	return to;
}

static struct sockaddr_in6 six(const char *address, int port)
{
	struct sockaddr_in6 to = {.sin6_family = AF_INET6, .sin6_port = htons(port)};
	inet_pton(AF_INET6, address, &to.sin6_addr);
	return to;
}

#define TO(address) ((struct sockaddr *)&(address)), sizeof(address)

static void connects(void)
{
	struct sockaddr_in a = four("127.0.0.1", 4242), far = four("198.51.100.7", 3333);
	struct sockaddr_in6 b = six("::1", 4243), mapped = six("::ffff:127.0.0.1", 4242), away = six("2001:db8::5", 25);
	struct sockaddr_un named = {.sun_family = AF_UNIX, .sun_path = "/tmp/a socket\n\\with \303\274\377"};
	struct sockaddr_un abstract = {.sun_family = AF_UNIX, .sun_path = "\0name\0with nul"};
	struct sockaddr_un relative = {.sun_family = AF_UNIX, .sun_path = "not-there"};
	socklen_t length = offsetof(struct sockaddr_un, sun_path) + 14;
	int server = socket(AF_INET, SOCK_STREAM, 0), server6 = socket(AF_INET6, SOCK_STREAM, 0);
	int local = socket(AF_UNIX, SOCK_STREAM, 0), hidden = socket(AF_UNIX, SOCK_STREAM, 0), s;

	bind(server, TO(a));
	listen(server, 7);
	bind(server6, TO(b));
	listen(server6, 8);
	bind(local, TO(named));
	listen(local, 9);
	bind(hidden, (struct sockaddr *)&abstract, length);
	listen(hidden, 10);
	s = socket(AF_INET, SOCK_STREAM, 0), connect(s, TO(a)), close(s);
	s = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), connect(s, TO(a)), close(s);
	s = socket(AF_INET, SOCK_STREAM, 0), connect(s, TO(far)), close(s);
	s = socket(AF_INET6, SOCK_STREAM, 0), connect(s, TO(b)), close(s);
	s = socket(AF_INET6, SOCK_STREAM, 0), connect(s, TO(mapped)), close(s);
	s = socket(AF_INET6, SOCK_STREAM, 0), connect(s, TO(away)), close(s);
	s = socket(AF_UNIX, SOCK_STREAM, 0), connect(s, TO(named)), close(s);
	s = socket(AF_UNIX, SOCK_STREAM, 0), connect(s, (struct sockaddr *)&abstract, length), close(s);
	s = socket(AF_UNIX, SOCK_STREAM, 0), connect(s, TO(relative)), close(s);
	a = four("127.0.0.1", 4244);
	s = socket(AF_INET, SOCK_STREAM, 0), connect(s, TO(a)), close(s);
	s = socket(AF_INET, SOCK_DGRAM, 0), bind(s, TO(a)), bind(s, TO(far)), close(s);
	b = six("::", 4245);
	s = socket(AF_INET6, SOCK_DGRAM, 0), bind(s, TO(b)), close(s);
	s = socket(AF_INET, SOCK_STREAM, 0), listen(s, 3), close(s);
	s = socket(AF_INET, SOCK_STREAM, 0), listen(server, 11), close(s);
	close(server), close(server6), close(local), close(hidden);
}

static const unsigned char question[] = "\x12\x34\x01\0\0\1\0\0\0\0\0\0\4pool\7example\4test\0\0\1\0\1";

static void datagrams(void)
{
	struct sockaddr_in to = four("127.0.0.1", 9), name = four("127.0.0.1", 53), none = four("198.51.100.7", 9);
	struct sockaddr_in6 six9 = six("::1", 9), mapped = six("::ffff:127.0.0.1", 9);
	struct iovec parts[2] = {{(void *)question, 20}, {(void *)(question + 20), sizeof(question) - 21}};
	struct mmsghdr many[2] = {0};
	int s = socket(AF_INET, SOCK_DGRAM, 0), c = socket(AF_INET, SOCK_DGRAM, 0), v = socket(AF_INET6, SOCK_DGRAM, 0);

	sendto(s, "hello", 5, 0, TO(to));
	sendto(s, "hello", 5, 0, TO(none));
	sendto(s, "lost", 4, 0, NULL, 0);
	sendto(s, question, sizeof(question) - 1, 0, TO(name));
	connect(c, TO(name));
	send(c, question, sizeof(question) - 1, 0);
	for (int i = 0; i < 2; i++) {
		many[i].msg_hdr.msg_iov = parts;
		many[i].msg_hdr.msg_iovlen = 2;
	}
	sendmmsg(c, many, 2, 0);
	many[0].msg_hdr.msg_name = &to;
	many[0].msg_hdr.msg_namelen = sizeof(to);
	sendmsg(s, &many[0].msg_hdr, 0);
	sendto(v, "six", 3, 0, TO(six9));
	sendto(v, "mapped", 6, 0, TO(mapped));
	close(s), close(c), close(v);
}

static void files(void)
{
	struct open_how how = {.flags = O_RDWR | O_CREAT, .mode = 0640, .resolve = RESOLVE_NO_SYMLINKS};
	char data[4096];
	struct iovec parts[2] = {{data, 100}, {data, 200}};
	int fd, from;

	memset(data, 'x', sizeof(data));
	close(syscall(SYS_openat2, AT_FDCWD, "/tmp/two", &how, sizeof(how)));
	close(creat("/tmp/made", 0600));
	close(open("/tmp", O_TMPFILE | O_RDWR, 0600));
	close(open("/tmp/made", O_PATH));
	close(open("/tmp/made", O_CREAT | O_EXCL | O_RDWR, 0600));
	close(open("/tmp/not/there", O_RDONLY));
	close(open("/tmp", O_RDONLY | O_DIRECTORY));
	mkdir("/tmp/d\377\n\\", 0700);
	fd = open("/tmp/d\377\n\\", O_RDONLY | O_DIRECTORY);
	close(openat(fd, "in\303\244side", O_WRONLY | O_CREAT, 0600));
	unlinkat(fd, "in\303\244side", 0);
	close(fd);
	rmdir("/tmp/d\377\n\\");
	rmdir("/tmp");
	rmdir("/tmp/not");
	symlink("/tmp/made", "/tmp/link");
	close(open("/tmp/link", O_RDONLY));
	close(open("/tmp/link", O_RDONLY | O_NOFOLLOW));
	unlink("/tmp/link");
	fd = open("/tmp/written", O_RDWR | O_CREAT | O_TRUNC, 0600);
	for (int i = 0; i < 5; i++)
		(void)!write(fd, data, 1000);
	(void)!pwrite(fd, data, 96, 8192);
	close(fd);
	fd = open("/tmp/written", O_RDONLY);
	(void)!write(fd, data, 10);
	close(fd);
	fd = open("/tmp/vectors", O_WRONLY | O_CREAT, 0600);
	(void)!writev(fd, parts, 2);
	close(fd);
	from = open("/tmp/written", O_RDONLY);
	fd = open("/tmp/copied", O_WRONLY | O_CREAT, 0600);
	(void)!copy_file_range(from, NULL, fd, NULL, 1L << 40, 0);
	close(fd);
	lseek(from, 0, SEEK_SET);
	fd = open("/tmp/sent", O_WRONLY | O_CREAT, 0600);
	(void)!sendfile(fd, from, NULL, 5000);
	close(fd), close(from);
	rename("/tmp/sent", "/tmp/was sent");
	rename("/tmp/was sent", "/tmp/not/there");
	rename("/tmp/none", "/tmp/else");
	chmod("/tmp/copied", 04755);
	(void)!chown("/tmp/copied", 1000, -1);
	(void)!chown("/tmp/none", 0, 0);
	unlink("/tmp/was sent");
	unlink("/tmp/none");
}

static void *from_a_thread(void *argv)
{
	close(open("/tmp/by-a-thread", O_RDONLY | O_CREAT, 0600));
	if (argv)
		execve("/bin/busybox", argv, environ);
	return NULL;
}

static void run(int how)
{
	char *echo[] = {"echo", "from", "\303\244 \377 odd\n\\ argument", "", NULL};
	pthread_t thread;
	pid_t pid = fork();
	int status, fd;

	if (pid == 0) {
		if (how == 0) /* not the first thread */
			pthread_create(&thread, NULL, from_a_thread, echo), pause();
		if (how == 1) { /* in memory only */
			fd = memfd_create("hidden", MFD_CLOEXEC);
			int from = open("/bin/busybox", O_RDONLY);
			while (sendfile(fd, from, NULL, 1 << 20) > 0)
				;
			fexecve(fd, echo, environ);
		}
		if (how == 2) { /* removed */
			unlink("/tmp/removed");
			execl("/proc/self/fd/9", "echo", "gone", NULL);
		}
		if (how == 3) /* no program */
			execl("/tmp/made", "made", NULL);
		if (how == 4) /* not there */
			execl("/tmp/none", "none", NULL);
		if (how == 5) /* setuid to 1000 */
			execl("/tmp/setuid", "echo", "as 1000", NULL);
		if (how == 6) /* a script by a relative path */
			(void)!chdir("/tmp/."), execl("./script", "script", "one", NULL);
		if (how == 7)
			raise(SIGKILL);
		if (how == 8) { /* a process that ends by its last thread */
			pthread_create(&thread, NULL, from_a_thread, NULL);
			pthread_join(thread, NULL);
		}
		if (how == 9) { /* the environment and arguments fill several pages */
			static char *many[400];
			for (int i = 0; i < 399; i++)
				asprintf(&many[i], "%d-%0*d", i, i % 60, i);
			many[0] = "true";
			execv("/bin/true", many);
		}
		_exit(40 + how);
	}
	waitpid(pid, &status, 0);
}

int main(void)
{
	char *argv[] = {"true", "spawned", NULL};
	pid_t pid;
	int status;

	connects();
	datagrams();
	files();
	for (int how = 0; how < 10; how++)
		run(how);
	posix_spawn(&pid, "/bin/true", NULL, NULL, argv, environ);
	waitpid(pid, &status, 0);
	return 0;
}
