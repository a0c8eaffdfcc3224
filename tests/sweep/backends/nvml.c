// An NVML library with two devices, as nvml.h declares it. It reads the memory of this process from the file OWN: one
// number per device, a dash if the driver has no figure, nothing if the process is not listed.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct { unsigned int pid; unsigned long long used; unsigned int gpu, compute; } process;

int nvmlInitWithFlags(unsigned int flags) { return getenv("OWN") ? 0 : 9; /* driver not loaded */ }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
const char *nvmlErrorString(int result) { return "said by the library of the test"; }
int nvmlDeviceGetCount_v2(unsigned int *count) { *count = 2; return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned int index, void **device) { *device = (void *)(size_t)(index + 1); return 0; }

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned int *count, process *found) {
    process listed[2] = {{getpid() + 1, 777, ~0u, ~0u}};  // another's
    unsigned int n = 1;
    char word[2][32] = {"", ""};
    FILE *file = fopen(getenv("OWN"), "r");
    if (!file) return 3;  // not supported
    fscanf(file, "%31s %31s", word[0], word[1]);
    fclose(file);
    const char *own = word[(size_t)device - 1];
    if (*own) listed[n++] = (process){getpid(), *own == '-' ? ~0ull : strtoull(own, 0, 10), ~0u, ~0u};
    if (*count < n) { *count = n; return 7; }  // insufficient size
    memcpy(found, listed, n * sizeof *listed);
    *count = n;
    return 0;
}
