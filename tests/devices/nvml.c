/* Stands for the library of NVIDIA's driver: a machine that does not exist.
 *
 * GPUs 0, 1 and 2 are whole; 0 and 1 are joined by two links, 2 has a link to a switch, and 1 and 2 are behind one PCIe switch. GPU 3 is
 * cut: slices 0 and 2 of it are there. */
#include <stdio.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, MISSING = 6 };

struct device {
    const char *uuid;
    unsigned bus;
    int is_slice;
};
static struct device gpus[] = {
    {"GPU-00000000", 0x01, 0}, {"GPU-11111111", 0x11, 0}, {"GPU-22222222", 0x22, 0}, {"GPU-33333333", 0x33, 0}};
static struct device slices[] = {{"MIG-a", 0x33, 1}, {NULL, 0, 1}, {"MIG-b", 0x33, 1}};

struct pci {
    char legacy[16];
    unsigned domain, bus, device, ids, subsystem;
    char bus_id[32];
};
struct memory {
    unsigned version;
    unsigned long long total, reserved, free, used;
};

static void describe(struct pci *pci, unsigned bus) {
    memset(pci, 0, sizeof *pci);
    pci->bus = bus;
    snprintf(pci->legacy, sizeof pci->legacy, "0000:%02X:00.0", bus);
    snprintf(pci->bus_id, sizeof pci->bus_id, "00000000:%02X:00.0", bus);
}

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int status) { return status ? "invented" : "none"; }

int nvmlSystemGetDriverVersion(char *version, unsigned length) {
    snprintf(version, length, "999.1");
    return OK;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = 4;
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
    if (index >= 4) return INVALID;
    *device = &gpus[index];
    return OK;
}

int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) {
    snprintf(uuid, length, "%s", device->uuid);
    return OK;
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length) {
    snprintf(name, length, "%s", device->is_slice ? "Invented slice" : "Invented GPU");
    return OK;
}

int nvmlDeviceGetMemoryInfo_v2(struct device *device, struct memory *memory) {
    if (memory->version != (sizeof *memory | 2u << 24)) return INVALID;
    memory->total = device->is_slice ? 10ull << 30 : 80ull << 30;
    memory->free = memory->total;
    memory->reserved = memory->used = 0;
    return OK;
}

int nvmlDeviceGetPciInfo_v3(struct device *device, struct pci *pci) {
    describe(pci, device->bus);
    return OK;
}

int nvmlDeviceGetTopologyCommonAncestor(struct device *one, struct device *other, unsigned *level) {
    int near = (one == &gpus[1] && other == &gpus[2]) || (one == &gpus[2] && other == &gpus[1]);
    *level = near ? 10 : 50;
    return OK;
}

int nvmlDeviceGetNvLinkState(struct device *device, unsigned link, unsigned *active) {
    if (device == &gpus[3]) return UNSUPPORTED;
    *active = device == &gpus[2] ? link == 0 : link < 2;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *device, unsigned link, struct pci *pci) {
    (void)link;
    describe(pci, device == &gpus[0] ? 0x11 : device == &gpus[1] ? 0x01 : 0xee);
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *count) {
    if (device != &gpus[3]) return UNSUPPORTED;
    *count = 3;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **slice) {
    if (device != &gpus[3] || index >= 3) return INVALID;
    if (!slices[index].uuid) return MISSING;
    *slice = &slices[index];
    return OK;
}
