/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What makes an object file a module: struct module with its name, its begin and its end (kernel/module/main.c). */
typedef unsigned long u64;
typedef unsigned char u8;

#define NAME_BYTES 56 /* MODULE_NAME_LEN */
#define AT(S, ...) ((__VA_ARGS__)AT_##S)
#define PLACE(base, offset, type) (*(type *)((char *)(base) + (offset)))

struct own_module {
	char before_name[OFF_module__name];
	char name[NAME_BYTES];
	char before_init[OFF_module__init - OFF_module__name - NAME_BYTES];
	int (*init)(void);
	char before_exit[OFF_module__exit - OFF_module__init - 8];
	void (*exit)(void);
	char rest[SIZE_module - OFF_module__exit - 8];
} __attribute__((packed));

static int start(void);

#define MODULE(its_name, its_exit)                                                                  \
	__attribute__((section(".gnu.linkonce.this_module"), used)) static struct own_module        \
		this_module = { .name = its_name, .init = start, .exit = its_exit }

#define say AT(_printk, int (*)(const char *, ...))
