// SPDX-License-Identifier: Apache-2.0

// pairs SERVER COUNT NAME: asks SERVER for A and AAAA of NAME at once from one port, as resolvers in the manner of c-ares do, COUNT times from the same port. Prints what resolve.c prints; a
// look-up failed when an answer is missing after 5 s, is no answer to what was asked, or has no record.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static long long now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return t.tv_sec * 1000000LL + t.tv_nsec / 1000;
}

// question writes a question (RFC 1035, section 4.1) and returns its length.
static int question(unsigned char *p, unsigned id, const char *name, int type)
{
	unsigned char *at = p + 12;
	memset(p, 0, 12);
	p[0] = id >> 8;
	p[1] = id;
	p[2] = 1; // recursion desired
	p[5] = 1;
	while (*name) {
		size_t n = strcspn(name, ".");
		*at++ = n;
		memcpy(at, name, n);
		at += n;
		name += n + (name[n] == '.');
	}
	*at++ = 0;
	*at++ = 0;
	*at++ = type;
	*at++ = 0;
	*at++ = 1; // IN
	return at - p;
}

int main(int argc, char **argv)
{
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(53) };
	struct timeval patience = { .tv_sec = 5 };
	unsigned char out[512], in[1500];
	if (argc != 4 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1)
		return 2;
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) || connect(fd, (struct sockaddr *)&to, sizeof(to)))
		return 1;
	long count = atol(argv[2]), failed = 0, slow = 0, which = 0;
	long long longest = 0;
	for (long i = 0; i < count; i++) {
		long long start = now();
		int open = 0, bad = 0;
		for (int k = 0; k < 2; k++) {
			int n = question(out, (2 * i + k) & 0xffff, argv[3], k ? 28 : 1);
			if (send(fd, out, n, 0) == n)
				open |= 1 << k;
			else
				bad = 1;
		}
		while (open) {
			long n = recv(fd, in, sizeof(in), 0);
			if (n < 12) {
				bad = 1;
				break;
			}
			int k = ((in[0] << 8 | in[1]) - 2 * i) & 0xffff;
			if (k > 1)
				continue; // late
			open &= ~(1 << k);
			bad |= (in[2] & 0x80) == 0 || (in[3] & 15) != 0 || in[7] == 0;
		}
		failed += bad;
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
