/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Maps the frame of a trapped function a second time and reads and writes it there; then maps the function to another
 * frame for some seconds, and then to none. Loading it fails on purpose: nothing of it stays.
 */
#include "module.h"

#define PAGE 4096UL
#define FRAME_BITS 0x000ffffffffff000UL
#define TEXT_MAP 0xffffffff80000000UL /* __START_KERNEL_map */
#define KERNEL_RW 0x8000000000000163UL /* PAGE_KERNEL */
#define VM_MAP 4UL
#define GFP_KERNEL 0xcc0UL
#define SMALL 1U /* PG_LEVEL_4K */
#define SECONDS 4UL

__attribute__((section(".modinfo"), used)) static const char license[] = "license=GPL";

static u64 text, *entry, was;

static u64 physical(u64 address)
{
	return address - TEXT_MAP + *AT(phys_base, u64 *);
}

static void flush(void *unused)
{
	(void)unused;
	__asm__ volatile("invlpg (%0)" ::"r"(text) : "memory");
}

static u64 ticks(void)
{
	unsigned int low, high;
	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (u64)high << 32 | low;
}

/* Runs with every other CPU stopped and interrupts off: nobody calls what is not there. */
static int without(void *unused)
{
	u64 until = ticks() + SECONDS * 1000 * *AT(tsc_khz, unsigned int *);

	(void)unused;
	*entry = 0;
	flush(0);
	while (ticks() < until)
		__asm__ volatile("pause" ::: "memory");
	*entry = was;
	flush(0);
	return 0;
}

static int start(void)
{
	u64 function = AT_do_filp_open;
	u64 at = function & (PAGE - 1), copy, i;
	int differ = 0;
	unsigned int level = 0;
	u8 *twin;
	void *page;

	text = function & -PAGE;
	page = (char *)*AT(vmemmap_base, u64 *) + (physical(text) >> 12) * SIZE_page;
	twin = AT(vmap, void *(*)(void **, unsigned int, u64, u64))(&page, 1, VM_MAP, KERNEL_RW);
	if (!twin)
		return -12;
	for (i = 0; i < PAGE; i++)
		differ += twin[i] != ((u8 *)text)[i];
	say("remap: %d bytes differ, entry %5ph\n", differ, twin + at);
	for (i = 0; i < 16; i++)
		((volatile u8 *)twin)[at + i] = twin[at + i];
	say("remap: written, entry %5ph\n", (void *)function);
	AT(vunmap, void (*)(void *))(twin);

	copy = AT(__get_free_pages, u64 (*)(unsigned int, unsigned int))(GFP_KERNEL, 0);
	if (!copy || AT(set_memory_4k, int (*)(u64, int))(text, 1))
		return -12;
	for (i = 0; i < PAGE; i++)
		((u8 *)copy)[i] = ((u8 *)text)[i];
	entry = AT(lookup_address, u64 *(*)(u64, unsigned int *))(text, &level);
	if (!entry || level != SMALL)
		return -22;
	was = *entry;
	*entry = (was & ~FRAME_BITS) | (copy - *AT(page_offset_base, u64 *));
	AT(flush_tlb_all, void (*)(void))();
	say("remap: elsewhere\n");
	AT(msleep, void (*)(unsigned int))(SECONDS * 1000);
	*entry = was;
	AT(flush_tlb_all, void (*)(void))();
	say("remap: back\n");
	AT(msleep, void (*)(unsigned int))(SECONDS * 1000);
	AT(stop_machine, int (*)(int (*)(void *), void *, void *))(without, 0, 0);
	say("remap: mapped again\n");
	AT(free_pages, void (*)(u64, unsigned int))(copy, 0);
	return -11;
}

MODULE("remap", 0);
