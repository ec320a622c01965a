// The driver library (libcuda.so.1) of runtime.c: what torch and the helper module of Triton need to load.
// runtime.py generates every other function of cuda.h and of the installed libraries; these return 0.
int cuInit(unsigned flags) { return 0; }
int cuDriverGetVersion(int* v) { *v = FAKE_CUDA_VERSION; return 0; }
int cuDeviceGetCount(int* n) { *n = 1; return 0; }
int cuDeviceGet(int* d, int ordinal) { *d = ordinal; return 0; }
int cuDeviceGetAttribute(int* v, int a, int d) {
  switch (a) {  // CUdevice_attribute
    case 75: *v = 9; break;       // compute capability
    case 76: *v = 0; break;
    case 8: *v = 49152; break;    // shared memory of a block
    case 97: *v = 232448; break;  // the same, opt-in
    case 10: *v = 32; break;      // warp size
    case 12: case 82: *v = 65536; break;  // registers
    case 16: *v = 132; break;     // multiprocessors
    case 39: *v = 2048; break;    // threads of a multiprocessor
    case 13: *v = 1980000; break; // clocks, bus width
    case 36: *v = 2619000; break;
    case 37: *v = 5120; break;
    default: *v = 1;
  }
  return 0;
}
static int context;
int cuDevicePrimaryCtxGetState(int d, unsigned* flags, int* alive) { *flags = 0; *alive = 1; return 0; }
int cuDevicePrimaryCtxRetain(void** c, int d) { *c = &context; return 0; }
int cuCtxGetCurrent(void** c) { *c = &context; return 0; }
int cuCtxGetDevice(int* d) { *d = 0; return 0; }
int cuCtxGetLimit(unsigned long* v, int l) { *v = 1024; return 0; }
int cuGetErrorString(int e, const char** s) { *s = "fake"; return 0; }
int cuModuleGetFunction(void** f, void* m, const char* n) { *f = (void*)1; return 0; }
int cuModuleLoad(void** m, const char* n) { *m = (void*)1; return 0; }
int cuModuleLoadData(void** m, const void* d) { *m = (void*)1; return 0; }
int cuModuleLoadDataEx(void** m, const void* d) { *m = (void*)1; return 0; }
int cuFuncGetAttribute(int* v, int a, void* f) { *v = a == 0 ? 1024 : a == 4 ? 32 : 0; return 0; }
int cuPointerGetAttribute(void* p, int a, unsigned long x) { if (a == 3) *(unsigned long*)p = x; return 0; }
int cuOccupancyMaxActiveClusters(int* n) { *n = 1; return 0; }
int cuOccupancyMaxActiveBlocksPerMultiprocessor(int* n) { *n = 1; return 0; }
int cuStreamIsCapturing(void* s, int* status) { *status = 0; return 0; }
