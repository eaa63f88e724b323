/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The process that holds a pod's namespaces. It waits for a signal to end it, and reaps the zombies it inherits when the pod's containers
 * share its process namespace. No libc: the whole program is five system calls of the kernel's x86-64 or arm64 interface.
 */

#if defined(__x86_64__)
enum { SYS_rt_sigprocmask = 14, SYS_exit_group = 231, SYS_wait4 = 61, SYS_rt_sigtimedwait = 128 };

static long call(long n, long a, long b, long c, long d) {
	register long r10 __asm__("r10") = d;
	long result;
	__asm__ volatile("syscall" : "=a"(result) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
enum { SYS_rt_sigprocmask = 135, SYS_exit_group = 94, SYS_wait4 = 260, SYS_rt_sigtimedwait = 137 };

static long call(long n, long a, long b, long c, long d) {
	register long x8 __asm__("x8") = n;
	register long x0 __asm__("x0") = a;
	register long x1 __asm__("x1") = b;
	register long x2 __asm__("x2") = c;
	register long x3 __asm__("x3") = d;
	__asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
	return x0;
}
#else
#error "pause knows x86-64 and arm64 only"
#endif

enum { SIGINT = 2, SIGTERM = 15, SIGCHLD = 17, SIG_BLOCK = 0, WNOHANG = 1 };

/* bit n-1 stands for signal n, as the kernel's sigset_t has it */
#define BIT(signal) (1UL << ((signal) - 1))

void _start(void) {
	static const unsigned long wanted = BIT(SIGINT) | BIT(SIGTERM) | BIT(SIGCHLD);

	call(SYS_rt_sigprocmask, SIG_BLOCK, (long)&wanted, 0, sizeof(wanted));
	for (;;) {
		long signal = call(SYS_rt_sigtimedwait, (long)&wanted, 0, 0, sizeof(wanted));

		if (signal == SIGINT || signal == SIGTERM)
			call(SYS_exit_group, 0, 0, 0, 0);
		if (signal == SIGCHLD)
			while (call(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
				;
	}
}
