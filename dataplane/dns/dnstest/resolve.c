// SPDX-License-Identifier: Apache-2.0

// resolve COUNT NAME...: looks the names up in turn, COUNT times in all, with the C library's resolver, as a program in a pod does: A and AAAA at the same time from one
// port. Prints how many look-ups there were, how many failed, how many took as long as a
// repeated question (musl repeats after 2.5 s, glibc after 5 s), the longest in microseconds, and which look-up that was.
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 2;
	long count = atol(argv[1]), failed = 0, slow = 0, which = 0;
	long long longest = 0;
	for (long i = 0; i < count; i++) {
		struct addrinfo hints, *found = NULL;
		memset(&hints, 0, sizeof(hints));
		hints.ai_family = AF_UNSPEC;
		hints.ai_socktype = SOCK_STREAM;
		long long start = now();
		if (getaddrinfo(argv[2 + i % (argc - 2)], "80", &hints, &found) != 0)
			failed++;
		else
			freeaddrinfo(found);
		long long took = now() - start;
		if (took >= 2400000)
			slow++;
		if (took > longest) {
			longest = took;
			which = i;
		}
	}
	printf("%ld %ld %ld %lld %ld\n", count, failed, slow, longest, which);
	return 0;
}
