/* Greets, and says whether it runs with root's rights. */
#include <stdio.h>
#include <sys/utsname.h>
#include <unistd.h>

int main(void)
{
	struct utsname u;

	if (uname(&u) != 0) {
		perror("hello: uname");
		return 1;
	}
	printf("hello from %s %s on %s, effective uid %u\n",
	       u.sysname, u.release, u.machine, (unsigned)geteuid());
	return 0;
}
