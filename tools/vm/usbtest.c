/*
 * Runs cases of the kernel's usbtest driver (drivers/usb/misc/usbtest) on one device.
 *
 * usage: usbtest (-D NODE | --busid BUSID) [-t LIST] [-c N] [-s BYTES] [-v BYTES] [-g N] [-l SECONDS] [-a]
 *
 *   -D NODE        the device's node, /dev/bus/usb/BBB/DDD
 *   --busid BUSID  the device's name in sysfs, for example 3-1
 *   -t LIST        cases and ranges, for example 0-10,13 (default 0-29)
 *   -c N           iterations of each case (default 1000)
 *   -s BYTES       length of one transfer (default 1024)
 *   -v BYTES       step by which the length varies in cases that vary it (default 1024)
 *   -g N           entries of a scatter list, or URBs in a queue (default 32)
 *   -l SECONDS     wall-clock limit of one case (default 60)
 *   -a             all cases must apply: "unsupported" counts as a failure
 *
 * Prints one line a case: "test N: pass S.SSSSSS s", "test N: unsupported" or
 * "test N: fail ERRNO (text) after S s". Exit code: 0 none failed, 1 some failed, 2 usage,
 * 3 a case did not end in time (the kernel still holds its process; no further case is run).
 *
 * The request is ioctl 'U', 100 of the driver bound to interface 0, carried by USBDEVFS_IOCTL. It
 * waits uninterruptibly inside the kernel, so each case runs in a process of its own that the
 * limit may leave behind.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <linux/usbdevice_fs.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CASES 30

enum { EXIT_PASS = 0, EXIT_FAIL = 1, EXIT_USAGE = 2, EXIT_HUNG = 3 };

/* The driver's request; it writes the duration. */
struct request {
    unsigned test_num;
    unsigned iterations;
    unsigned length;
    unsigned vary;
    unsigned sglen;
    struct timeval duration;
};

/* What the process that runs a case reports through its pipe. */
struct outcome {
    int error;
    double seconds;
};

struct options {
    char node[256];
    unsigned char wanted[CASES];
    struct request request;
    int limit_seconds;
    int all_must_apply;
};

static int run_case(const struct options *options, unsigned number);
static void issue(const struct options *options, unsigned number, int report);
static void parse(struct options *options, int argc, char **argv);
static void parse_list(struct options *options, const char *list);
static void node_of(struct options *options, const char *busid);
static void usage(const char *why);

int main(int argc, char **argv)
{
    struct options options;
    int worst = EXIT_PASS;

    parse(&options, argc, argv);
    setvbuf(stdout, NULL, _IOLBF, 0);
    for (unsigned number = 0; number < CASES; number++) {
        if (!options.wanted[number])
            continue;
        int code = run_case(&options, number);
        if (code > worst)
            worst = code;
        if (code == EXIT_HUNG)
            break;
    }
    return worst;
}

/* Runs one case in a child, waits for it no longer than the limit, prints its line. */
static int run_case(const struct options *options, unsigned number)
{
    struct outcome outcome;
    struct pollfd readable;
    int ends[2];
    pid_t child;

    if (pipe2(ends, O_CLOEXEC) != 0 || (child = fork()) < 0) {
        perror("usbtest");
        exit(EXIT_USAGE);
    }
    if (child == 0) {
        /* Left behind inside the kernel it would keep the reader of our output waiting. */
        for (int fd = 0; fd < 3; fd++)
            close(fd);
        close(ends[0]);
        issue(options, number, ends[1]);
    }
    close(ends[1]);
    readable.fd = ends[0];
    readable.events = POLLIN;
    if (poll(&readable, 1, options->limit_seconds * 1000) == 0) {
        kill(child, SIGKILL);
        /* A case that was only slow ends now; one that hangs in the kernel does not. */
        int ended = poll(&readable, 1, 5000) != 0;
        printf("test %u: fail ETIME (no end within %d s%s)\n", number, options->limit_seconds,
               ended ? "" : ", still inside the kernel");
        close(ends[0]);
        if (!ended)
            return EXIT_HUNG;
        waitpid(child, NULL, 0);
        return EXIT_FAIL;
    }
    ssize_t got = read(ends[0], &outcome, sizeof outcome);
    close(ends[0]);
    waitpid(child, NULL, 0);
    if (got != sizeof outcome) {
        printf("test %u: fail (the process that ran it died)\n", number);
        return EXIT_FAIL;
    }
    if (outcome.error == 0) {
        printf("test %u: pass %.6f s\n", number, outcome.seconds);
        return EXIT_PASS;
    }
    if (outcome.error == EOPNOTSUPP) {
        printf("test %u: unsupported\n", number);
        return options->all_must_apply ? EXIT_FAIL : EXIT_PASS;
    }
    /* The unlink cases add 1000 or 2000 to the status of the URB that ended otherwise than told. */
    int status = outcome.error % 1000;
    const char *name = strerrorname_np(status);
    printf("test %u: fail %s (%s%s) after %.3f s\n", number, name ? name : "?", strerror(status),
           status == outcome.error ? "" : ", the status of an unlinked URB", outcome.seconds);
    return EXIT_FAIL;
}

/* The child: issues the request, reports through the pipe, ends. */
static void issue(const struct options *options, unsigned number, int report)
{
    struct request request = options->request;
    struct usbdevfs_ioctl call = { .ifno = 0, .ioctl_code = _IOWR('U', 100, struct request) };
    struct outcome outcome = { 0, 0 };
    struct timespec before, after;
    int node = open(options->node, O_RDWR | O_CLOEXEC);

    request.test_num = number;
    call.data = &request;
    clock_gettime(CLOCK_MONOTONIC, &before);
    if (node < 0 || ioctl(node, USBDEVFS_IOCTL, &call) < 0)
        outcome.error = errno;
    clock_gettime(CLOCK_MONOTONIC, &after);
    outcome.seconds = after.tv_sec - before.tv_sec + (after.tv_nsec - before.tv_nsec) / 1e9;
    /* The driver's own figure leaves out what the system call cost. */
    if (outcome.error == 0)
        outcome.seconds = request.duration.tv_sec + request.duration.tv_usec / 1e6;
    _exit(write(report, &outcome, sizeof outcome) != sizeof outcome);
}

static void parse(struct options *options, int argc, char **argv)
{
    static const struct option names[] = {
        { "busid", required_argument, NULL, 'B' },
        { NULL, 0, NULL, 0 },
    };
    int letter;

    memset(options, 0, sizeof *options);
    options->request =
        (struct request){ .iterations = 1000, .length = 1024, .vary = 1024, .sglen = 32 };
    options->limit_seconds = 60;
    while ((letter = getopt_long(argc, argv, "D:B:t:c:s:v:g:l:a", names, NULL)) != -1) {
        switch (letter) {
        case 'D': snprintf(options->node, sizeof options->node, "%s", optarg); break;
        case 'B': node_of(options, optarg); break;
        case 't': parse_list(options, optarg); break;
        case 'c': options->request.iterations = strtoul(optarg, NULL, 0); break;
        case 's': options->request.length = strtoul(optarg, NULL, 0); break;
        case 'v': options->request.vary = strtoul(optarg, NULL, 0); break;
        case 'g': options->request.sglen = strtoul(optarg, NULL, 0); break;
        case 'l': options->limit_seconds = atoi(optarg); break;
        case 'a': options->all_must_apply = 1; break;
        default: usage("unknown option");
        }
    }
    if (options->node[0] == '\0' || optind != argc)
        usage("give a device with -D or --busid, and options only");
    if (!memchr(options->wanted, 1, CASES))
        memset(options->wanted, 1, CASES);
}

/* "0-10,13" */
static void parse_list(struct options *options, const char *list)
{
    while (*list != '\0') {
        char *end;
        unsigned long first = strtoul(list, &end, 10), last = first;

        if (end == list)
            usage("-t takes cases and ranges, for example 0-10,13");
        if (*end == '-')
            last = strtoul(end + 1, &end, 10);
        if (first > last || last >= CASES)
            usage("-t: cases are 0 to 29");
        for (; first <= last; first++)
            options->wanted[first] = 1;
        list = *end == ',' ? end + 1 : end;
    }
}

/* The node's name is made of the bus and device numbers, which sysfs tells. */
static void node_of(struct options *options, const char *busid)
{
    static const char *const parts[2] = { "busnum", "devnum" };
    unsigned numbers[2];

    for (int i = 0; i < 2; i++) {
        char path[512];
        FILE *file;

        snprintf(path, sizeof path, "/sys/bus/usb/devices/%s/%s", busid, parts[i]);
        file = fopen(path, "re");
        if (file == NULL || fscanf(file, "%u", &numbers[i]) != 1) {
            fprintf(stderr, "usbtest: no USB device %s: %s\n", busid, strerror(errno));
            exit(EXIT_USAGE);
        }
        fclose(file);
    }
    snprintf(options->node, sizeof options->node, "/dev/bus/usb/%03u/%03u", numbers[0], numbers[1]);
}

static void usage(const char *why)
{
    fprintf(stderr,
            "usbtest: %s\nusage: usbtest (-D NODE | --busid BUSID) [-t LIST] [-c N] [-s BYTES] "
            "[-v BYTES] [-g N] [-l SECONDS] [-a]\n",
            why);
    exit(EXIT_USAGE);
}
