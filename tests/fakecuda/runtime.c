// A CUDA runtime for machines without a GPU: PyTorch's CUDA build runs on it unchanged.
//
// Real: the program, PyTorch's CUDA code (caching allocator, streams, events, graphs, dispatch, kernel launches), copies
// and small memsets, the memory limit, and the rules of stream capture: modes (global, thread-local, relaxed), calls that
// are unsafe during a capture, the legacy stream, fork and join through events, invalidation.
// Not real: arithmetic. A kernel launch is counted and does nothing. Device memory is lazily mapped host memory that is
// zero until it is written, so the result of a kernel is zero or whatever the memory held. Nothing is asynchronous.
//
// Loaded by LD_PRELOAD before libcudart (runtime.py); runtime.py generates the functions that are not defined here.
// A program registers a listener with fake_hook(function, mask) and reads fake_count, fake_used and fake_replays.
#define _GNU_SOURCE
#include <cuda_runtime_api.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

// -------- events
enum {SYNC = 1, H2D = 2, D2H = 4, LAUNCH = 8, VIOLATION = 16, OUTSIDE = 32, MALLOC = 64, D2D = 128};
typedef void (*hook_t)(int kind, const char* what, unsigned long long size);
static hook_t hook;
static int mask;
static unsigned long long counts[256];
static unsigned long long limit_bytes, used_bytes, replays;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void say(int kind, const char* what, unsigned long long size) {
  __sync_fetch_and_add(&counts[kind], 1);
  if (hook && (mask & kind)) hook(kind, what, size);
}
void fake_hook(hook_t h, int m) { hook = h; mask = m; }
unsigned long long fake_count(int kind) { return counts[kind]; }
unsigned long long fake_used(void) { return used_bytes; }
unsigned long long fake_replays(void) { return replays; }

// -------- streams, events, captures
typedef struct Cap {
  unsigned long long id, launches;
  int mode, invalid;
  struct Stream* origin;
  pthread_t owner;
} Cap;
typedef struct Stream {
  Cap* cap;                          // the capture that includes this stream
  unsigned flags;
  int prio;
  unsigned long long done, joined;   // captured operations; how many of them another stream waits for
  struct Stream* next;
} Stream;
typedef struct Event { Cap* cap; Stream* s; unsigned long long at; } Event;
static Stream legacy, perthread, *streams;
static Cap* active[64];
static int nactive;
static unsigned long long next_id = 1;
static __thread int tmode = cudaStreamCaptureModeGlobal;
static __thread cudaError_t last;

static Stream* S(cudaStream_t s) {
  if (s == 0 || s == cudaStreamLegacy) return &legacy;
  if (s == cudaStreamPerThread) return &perthread;
  return (Stream*)s;
}
static cudaError_t ret(cudaError_t e) { if (e) last = e; return e; }
static int forbidden(void) {  // whether an unsafe call of this thread is an error now
  if (tmode == cudaStreamCaptureModeRelaxed) return 0;
  for (int i = 0; i < nactive; i++) {
    Cap* c = active[i];
    if (c->mode == cudaStreamCaptureModeGlobal && tmode == cudaStreamCaptureModeGlobal) return 1;
    if (c->mode != cudaStreamCaptureModeRelaxed && pthread_equal(c->owner, pthread_self())) return 1;
  }
  return 0;
}
static cudaError_t violation(const char* what, cudaError_t e) {
  say(VIOLATION, what, e);
  for (int i = 0; i < nactive; i++) active[i]->invalid = 1;
  return ret(e);
}
#define UNSAFE(name) if (nactive && forbidden()) return violation(name, cudaErrorStreamCaptureUnsupported)
static void captured(Stream* x) { x->cap->launches++; x->done++; }

// -------- devices: FAKE_DEVICES (1) devices with the properties of an H200 and FAKE_GB (139.8) GiB of memory each
static __thread int cur;
static int ndev(void) { char* e = getenv("FAKE_DEVICES"); return e ? atoi(e) : 1; }
static unsigned long long total_mem(void) {
  if (!limit_bytes) { char* e = getenv("FAKE_GB"); limit_bytes = (unsigned long long)((e ? atof(e) : 139.8) * 1073741824.0); }
  return limit_bytes;
}
cudaError_t cudaGetDeviceCount(int* n) { *n = ndev(); return 0; }
cudaError_t cudaGetDevice(int* d) { *d = cur; return 0; }
cudaError_t cudaSetDevice(int d) { if (d < 0 || d >= ndev()) return ret(cudaErrorInvalidDevice); cur = d; return 0; }
cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp* p, int d) {
  memset(p, 0, sizeof *p);
  strcpy(p->name, "Fake GPU (no arithmetic)");
  p->totalGlobalMem = total_mem(); p->major = 9; p->minor = 0; p->multiProcessorCount = 132; p->warpSize = 32;
  p->sharedMemPerBlock = 49152; p->sharedMemPerBlockOptin = 232448; p->sharedMemPerMultiprocessor = 233472;
  p->regsPerBlock = p->regsPerMultiprocessor = 65536; p->totalConstMem = 65536; p->l2CacheSize = 62914560;
  p->maxThreadsPerBlock = 1024; p->maxThreadsDim[0] = p->maxThreadsDim[1] = 1024; p->maxThreadsDim[2] = 64;
  p->maxGridSize[0] = 2147483647; p->maxGridSize[1] = p->maxGridSize[2] = 65535;
  p->maxThreadsPerMultiProcessor = 2048; p->maxBlocksPerMultiProcessor = 32; p->memoryBusWidth = 5120;
  p->concurrentKernels = 1; p->asyncEngineCount = 3; p->unifiedAddressing = 1; p->canMapHostMemory = 1; p->managedMemory = 1;
  return 0;
}
cudaError_t cudaDeviceGetAttribute(int* v, enum cudaDeviceAttr a, int d) {
  switch ((int)a) {
    case cudaDevAttrComputeCapabilityMajor: *v = 9; break;
    case cudaDevAttrComputeCapabilityMinor: *v = 0; break;
    case cudaDevAttrMultiProcessorCount: *v = 132; break;
    case cudaDevAttrWarpSize: *v = 32; break;
    case cudaDevAttrMaxThreadsPerBlock: case cudaDevAttrMaxBlockDimX: case cudaDevAttrMaxBlockDimY: *v = 1024; break;
    case cudaDevAttrMaxBlockDimZ: *v = 64; break;
    case cudaDevAttrMaxGridDimX: *v = 2147483647; break;
    case cudaDevAttrMaxGridDimY: case cudaDevAttrMaxGridDimZ: *v = 65535; break;
    case cudaDevAttrMaxSharedMemoryPerBlock: *v = 49152; break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin: *v = 232448; break;
    case cudaDevAttrMaxSharedMemoryPerMultiprocessor: *v = 233472; break;
    case cudaDevAttrMaxThreadsPerMultiProcessor: *v = 2048; break;
    case cudaDevAttrMaxRegistersPerBlock: *v = 65536; break;
    case cudaDevAttrMaxBlocksPerMultiprocessor: *v = 32; break;
    case cudaDevAttrMemoryPoolsSupported: *v = 0; break;
    default: *v = 1;
  }
  return 0;
}
cudaError_t cudaDriverGetVersion(int* v) { *v = CUDART_VERSION; return 0; }
cudaError_t cudaRuntimeGetVersion(int* v) { *v = CUDART_VERSION; return 0; }
cudaError_t cudaDeviceCanAccessPeer(int* v, int a, int b) { *v = 0; return 0; }
cudaError_t cudaDeviceGetStreamPriorityRange(int* l, int* g) { *l = 0; *g = -5; return 0; }
cudaError_t cudaDeviceGetPCIBusId(char* p, int n, int d) { snprintf(p, n, "0000:00:00.0"); return 0; }
cudaError_t cudaGetLastError(void) { cudaError_t e = last; last = 0; return e; }
cudaError_t cudaPeekAtLastError(void) { return last; }
const char* cudaGetErrorString(cudaError_t e) {
  static __thread char b[96];
  switch ((int)e) {
    case 2: return "out of memory";
    case 101: return "invalid device ordinal";
    case 900: return "operation not permitted when stream is capturing";
    case 901: return "operation failed due to a previous error during capture";
    case 904: return "capturing stream has unjoined work";
    case 905: return "dependency created on uncaptured work in another stream";
    case 906: return "operation would make the legacy stream depend on a capturing blocking stream";
    case 907: return "operation not permitted on an event last recorded in a capturing stream";
  }
  snprintf(b, sizeof b, "fake error %d", (int)e);
  return b;
}
const char* cudaGetErrorName(cudaError_t e) { static __thread char b[32]; snprintf(b, sizeof b, "cudaError%d", (int)e); return b; }

// -------- memory: host pages, allocated by the kernel when they are written
typedef struct { char* p; size_t n; int host; } Block;
static Block blocks[65536];
static int nblocks;
static void* map(size_t n, int host) {
  n = (n + 4095) & ~4095ull; if (!n) n = 4096;
  char* p = mmap(0, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) return 0;
  pthread_mutex_lock(&lock);
  int i = 0;
  while (i < nblocks && blocks[i].p) i++;
  if (i == 65536) { pthread_mutex_unlock(&lock); munmap(p, n); return 0; }
  if (i == nblocks) nblocks++;
  blocks[i] = (Block){p, n, host};
  if (!host) used_bytes += n;
  pthread_mutex_unlock(&lock);
  return p;
}
static void unmap(void* q) {
  if (!q) return;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < nblocks; i++) if (blocks[i].p == (char*)q) {
    munmap(q, blocks[i].n);
    if (!blocks[i].host) used_bytes -= blocks[i].n;
    blocks[i].p = 0;
    break;
  }
  pthread_mutex_unlock(&lock);
}
static int kind_of(const void* q) {  // 2 device, 1 pinned host memory, 0 pageable host memory
  int found = 0;
  pthread_mutex_lock(&lock);
  for (int i = 0; i < nblocks && !found; i++)
    if (blocks[i].p && (char*)q >= blocks[i].p && (char*)q < blocks[i].p + blocks[i].n) found = blocks[i].host ? 1 : 2;
  pthread_mutex_unlock(&lock);
  return found;
}
cudaError_t cudaMalloc(void** p, size_t n) {
  UNSAFE("cudaMalloc");
  *p = used_bytes + n > total_mem() ? 0 : map(n, 0);
  if (!*p) return ret(cudaErrorMemoryAllocation);
  say(MALLOC, "cudaMalloc", n);
  return 0;
}
cudaError_t cudaMallocAsync(void** p, size_t n, cudaStream_t s) { return cudaMalloc(p, n); }
cudaError_t cudaMallocManaged(void** p, size_t n, unsigned f) { return cudaMalloc(p, n); }
cudaError_t cudaFree(void* p) { if (p) { UNSAFE("cudaFree"); } unmap(p); return 0; }
cudaError_t cudaFreeAsync(void* p, cudaStream_t s) { unmap(p); return 0; }
cudaError_t cudaHostAlloc(void** p, size_t n, unsigned f) { UNSAFE("cudaHostAlloc"); *p = map(n, 1); return *p ? 0 : ret(2); }
cudaError_t cudaMallocHost(void** p, size_t n) { UNSAFE("cudaMallocHost"); *p = map(n, 1); return *p ? 0 : ret(2); }
cudaError_t cudaFreeHost(void* p) { unmap(p); return 0; }
cudaError_t cudaMemGetInfo(size_t* f, size_t* t) { *t = total_mem(); *f = *t - used_bytes; return 0; }
cudaError_t cudaPointerGetAttributes(struct cudaPointerAttributes* a, const void* p) {
  memset(a, 0, sizeof *a);
  int k = kind_of(p);
  a->type = k == 2 ? cudaMemoryTypeDevice : k == 1 ? cudaMemoryTypeHost : cudaMemoryTypeUnregistered;
  a->device = k == 2 ? 0 : -1; a->devicePointer = k ? (void*)p : 0; a->hostPointer = k == 1 ? (void*)p : 0;
  return 0;
}

// -------- copies: executed outside a capture, recorded inside one
static const void* held_src[4096];  // pinned sources of captured copies, which every replay reads again
static int nheld;
static cudaError_t copied(void* d, const void* s, size_t n, int sync, cudaStream_t st) {
  int from = kind_of(s), to = kind_of(d);
  Stream* x = S(st);
  int k = from == 2 && to == 2 ? D2D : from == 2 ? D2H : H2D;
  if (sync && nactive && forbidden()) return violation("cudaMemcpy", cudaErrorStreamCaptureImplicit);
  if (x->cap && x->cap->invalid) return ret(cudaErrorStreamCaptureInvalidated);
  if (k == H2D && from == 1) {
    if (x->cap) { if (nheld < 4096) held_src[nheld++] = s; }
    else for (int i = 0; i < nheld; i++) if (held_src[i] == s) {
      say(VIOLATION, "pinned source of a captured copy is used again: replays read other data", n); break; }
  }
  if (x->cap) {
    captured(x);
    if (k == H2D && from == 0) say(VIOLATION, "pageable host memory copied in a capture (its address is baked in)", n);
  } else if (nactive) say(OUTSIDE, "memcpy on a stream that is not captured", n);
  say(k, from == 1 || to == 1 ? "pinned" : "pageable", n);
  if (!x->cap) memmove(d, s, n);
  return 0;
}
cudaError_t cudaMemcpy(void* d, const void* s, size_t n, enum cudaMemcpyKind k) { say(SYNC, "cudaMemcpy", n); return copied(d, s, n, 1, 0); }
cudaError_t cudaMemcpyAsync(void* d, const void* s, size_t n, enum cudaMemcpyKind k, cudaStream_t st) { return copied(d, s, n, 0, st); }
cudaError_t cudaMemcpyPeerAsync(void* d, int a, const void* s, int b, size_t n, cudaStream_t st) { return copied(d, s, n, 0, st); }
static void filled(void* p, int v, size_t n) { if (v || n < (1u << 20)) memset(p, v, n); }  // pages of large zero fills stay unmapped
cudaError_t cudaMemset(void* p, int v, size_t n) { UNSAFE("cudaMemset"); filled(p, v, n); return 0; }
cudaError_t cudaMemsetAsync(void* p, int v, size_t n, cudaStream_t st) {
  Stream* x = S(st);
  if (x->cap && x->cap->invalid) return ret(cudaErrorStreamCaptureInvalidated);
  say(LAUNCH, "memset", n);
  if (x->cap) { captured(x); return 0; }
  if (nactive) say(OUTSIDE, "memset on a stream that is not captured", n);
  filled(p, v, n);
  return 0;
}
cudaError_t cudaMemcpyToSymbol(const void* a, const void* b, size_t n, size_t o, enum cudaMemcpyKind k) { return 0; }
cudaError_t cudaGetSymbolAddress(void** p, const void* s) { *p = map(4096, 0); return 0; }

// -------- streams and events
cudaError_t cudaStreamCreateWithPriority(cudaStream_t* s, unsigned f, int p) {
  Stream* x = calloc(1, sizeof(Stream));
  x->flags = f; x->prio = p;
  pthread_mutex_lock(&lock); x->next = streams; streams = x; pthread_mutex_unlock(&lock);
  *s = (cudaStream_t)x;
  return 0;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* s, unsigned f) { return cudaStreamCreateWithPriority(s, f, 0); }
cudaError_t cudaStreamCreate(cudaStream_t* s) { return cudaStreamCreateWithPriority(s, 0, 0); }
cudaError_t cudaStreamDestroy(cudaStream_t s) { return 0; }  // not freed: the list of streams refers to it
cudaError_t cudaStreamGetPriority(cudaStream_t s, int* p) { *p = S(s)->prio; return 0; }
cudaError_t cudaStreamGetFlags(cudaStream_t s, unsigned* p) { *p = S(s)->flags; return 0; }
cudaError_t cudaStreamSynchronize(cudaStream_t s) {
  if (S(s)->cap) return violation("cudaStreamSynchronize on a capturing stream", cudaErrorStreamCaptureUnsupported);
  UNSAFE("cudaStreamSynchronize");
  say(SYNC, "cudaStreamSynchronize", 0);
  return 0;
}
cudaError_t cudaDeviceSynchronize(void) { UNSAFE("cudaDeviceSynchronize"); say(SYNC, "cudaDeviceSynchronize", 0); return 0; }
cudaError_t cudaStreamQuery(cudaStream_t s) { UNSAFE("cudaStreamQuery"); return 0; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* e, unsigned f) { *e = (cudaEvent_t)calloc(1, sizeof(Event)); return 0; }
cudaError_t cudaEventCreate(cudaEvent_t* e) { return cudaEventCreateWithFlags(e, 0); }
cudaError_t cudaEventDestroy(cudaEvent_t e) { free(e); return 0; }
cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t s) { Event* x = (Event*)e; x->s = S(s); x->cap = S(s)->cap; x->at = S(s)->done; return 0; }
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned f) { return cudaEventRecord(e, s); }
cudaError_t cudaEventQuery(cudaEvent_t e) {
  if (((Event*)e)->cap) return violation("cudaEventQuery of a captured event", cudaErrorCapturedEvent);
  UNSAFE("cudaEventQuery");
  return 0;
}
cudaError_t cudaEventSynchronize(cudaEvent_t e) {
  if (((Event*)e)->cap) return violation("cudaEventSynchronize of a captured event", cudaErrorCapturedEvent);
  UNSAFE("cudaEventSynchronize");
  say(SYNC, "cudaEventSynchronize", 0);
  return 0;
}
cudaError_t cudaEventElapsedTime(float* t, cudaEvent_t a, cudaEvent_t b) { *t = 1; return 0; }
cudaError_t cudaStreamWaitEvent(cudaStream_t s, cudaEvent_t e, unsigned f) {
  Stream* x = S(s);
  Event* v = (Event*)e;
  int running = 0;
  for (int i = 0; i < nactive; i++) running |= active[i] == v->cap;
  if (v->cap && running && !v->cap->invalid && !x->cap) {  // a fork: this stream joins the capture
    if (x == &legacy) return violation("legacy stream waits for a captured event", cudaErrorStreamCaptureImplicit);
    x->cap = v->cap; x->done = x->joined = 0;
  }
  if (x->cap && v->cap == x->cap && v->s != x) { if (v->at > v->s->joined) v->s->joined = v->at; return 0; }
  if (x->cap && !v->cap && v->s) return violation("a capturing stream waits for uncaptured work", cudaErrorStreamCaptureIsolation);
  return 0;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode m) {
  Stream* x = S(s);
  if (x == &legacy) return violation("capture of the legacy stream", cudaErrorStreamCaptureUnsupported);
  if (x->cap || nactive == 64) return ret(cudaErrorIllegalState);
  Cap* c = calloc(1, sizeof(Cap));
  c->id = next_id++; c->mode = m; c->origin = x; c->owner = pthread_self();
  x->cap = c; x->done = x->joined = 0;
  active[nactive++] = c;
  return 0;
}
cudaError_t cudaStreamBeginCaptureToGraph(cudaStream_t s, cudaGraph_t g, const cudaGraphNode_t* d, const cudaGraphEdgeData* e, size_t n, enum cudaStreamCaptureMode m) { return cudaStreamBeginCapture(s, m); }
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t* g) {
  Stream* x = S(s);
  Cap* c = x->cap;
  *g = 0;
  if (!c || x != c->origin) return ret(cudaErrorIllegalState);
  for (int i = 0; i < nactive; i++) if (active[i] == c) { active[i] = active[--nactive]; break; }
  int unjoined = 0;
  pthread_mutex_lock(&lock);
  for (Stream* y = streams; y; y = y->next) if (y->cap == c) { unjoined |= y != x && y->joined < y->done; y->cap = 0; }
  pthread_mutex_unlock(&lock);
  x->cap = 0;
  if (c->invalid) return ret(cudaErrorStreamCaptureInvalidated);
  if (unjoined) { say(VIOLATION, "work on a forked stream is not joined", 0); return ret(cudaErrorStreamCaptureUnjoined); }
  *g = (cudaGraph_t)c;
  return 0;
}
cudaError_t cudaStreamIsCapturing(cudaStream_t s, enum cudaStreamCaptureStatus* st) {
  Stream* x = S(s);
  if (x == &legacy) for (int i = 0; i < nactive; i++) if (!(active[i]->origin->flags & cudaStreamNonBlocking))
    return violation("legacy stream asked while a blocking stream captures", cudaErrorStreamCaptureImplicit);
  *st = x->cap ? (x->cap->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive) : cudaStreamCaptureStatusNone;
  return 0;
}
#if CUDART_VERSION >= 13000
cudaError_t cudaStreamGetCaptureInfo(cudaStream_t s, enum cudaStreamCaptureStatus* st, unsigned long long* id, cudaGraph_t* g, const cudaGraphNode_t** d, const cudaGraphEdgeData** e, size_t* n) {
#else
cudaError_t cudaStreamGetCaptureInfo_v2(cudaStream_t s, enum cudaStreamCaptureStatus* st, unsigned long long* id, cudaGraph_t* g, const cudaGraphNode_t** d, size_t* n) {
  void** e = 0;
#endif
  Cap* c = S(s)->cap;
  *st = c ? (c->invalid ? cudaStreamCaptureStatusInvalidated : cudaStreamCaptureStatusActive) : cudaStreamCaptureStatusNone;
  if (id) *id = c ? c->id : 0;
  if (g) *g = (cudaGraph_t)c;
  if (d) *d = 0;
  if (e) *e = 0;
  if (n) *n = 0;
  return 0;
}
cudaError_t cudaThreadExchangeStreamCaptureMode(enum cudaStreamCaptureMode* m) { int old = tmode; tmode = *m; *m = old; return 0; }

// -------- graphs: a graph is the counters of its capture
cudaError_t cudaGraphGetNodes(cudaGraph_t g, cudaGraphNode_t* n, size_t* k) { *k = ((Cap*)g)->launches; return 0; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long f) { *e = (cudaGraphExec_t)g; return 0; }
cudaError_t cudaGraphInstantiateWithFlags(cudaGraphExec_t* e, cudaGraph_t g, unsigned long long f) { *e = (cudaGraphExec_t)g; return 0; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) { replays++; say(LAUNCH, "cudaGraphLaunch", ((Cap*)e)->launches); return 0; }

// -------- kernels: a launch is counted, with the name of the kernel if there is a listener
typedef struct { const void* host; const char* name; } K;
static K* ks;
static size_t nks, cks;
static int in_order;
void** __cudaRegisterFatBinary(void* f) { return (void**)calloc(1, sizeof(void*)); }
void __cudaRegisterFatBinaryEnd(void** h) {}
void __cudaUnregisterFatBinary(void** h) {}
void __cudaRegisterFunction(void** h, const char* host, char* dev, const char* name, int lim, void* a, void* b, void* c, void* d, int* e) {
  pthread_mutex_lock(&lock);
  if (nks == cks) { cks = cks ? 2 * cks : 65536; ks = realloc(ks, cks * sizeof(K)); }
  ks[nks++] = (K){host, name};
  in_order = 0;
  pthread_mutex_unlock(&lock);
}
void __cudaRegisterVar(void** h, char* v, char* a, const char* n, int e, size_t s, int c, int g) {}
static int by_address(const void* a, const void* b) { const char *x = ((K*)a)->host, *y = ((K*)b)->host; return x < y ? -1 : x > y; }
static const char* kname(const void* f) {
  pthread_mutex_lock(&lock);
  if (!in_order) { qsort(ks, nks, sizeof(K), by_address); in_order = 1; }
  K q = {f, 0}, *k = bsearch(&q, ks, nks, sizeof(K), by_address);
  pthread_mutex_unlock(&lock);
  return k ? k->name : "?";
}
static __thread struct { dim3 g, b; size_t m; cudaStream_t s; } cfg;
unsigned __cudaPushCallConfiguration(dim3 g, dim3 b, size_t m, struct CUstream_st* s) { cfg.g = g; cfg.b = b; cfg.m = m; cfg.s = s; return 0; }
cudaError_t __cudaPopCallConfiguration(dim3* g, dim3* b, size_t* m, void* s) { *g = cfg.g; *b = cfg.b; *m = cfg.m; *(cudaStream_t*)s = cfg.s; return 0; }
static cudaError_t launched(const void* f, cudaStream_t s) {
  Stream* x = S(s);
  if (x->cap && x->cap->invalid) return ret(cudaErrorStreamCaptureInvalidated);
  say(LAUNCH, hook && (mask & LAUNCH) ? kname(f) : "", x->cap != 0);
  if (x->cap) captured(x);
  else if (nactive) say(OUTSIDE, hook && (mask & OUTSIDE) ? kname(f) : "", 0);
  return 0;
}
cudaError_t cudaLaunchKernel(const void* f, dim3 g, dim3 b, void** a, size_t m, cudaStream_t s) { return launched(f, s); }
cudaError_t __cudaLaunchKernel(cudaKernel_t f, dim3 g, dim3 b, void** a, size_t m, cudaStream_t s) { return launched(f, s); }
cudaError_t __cudaGetKernel(cudaKernel_t* k, const void* f) { *k = (cudaKernel_t)f; return 0; }
cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t* c, const void* f, void** a) { return launched(f, c->stream); }
cudaError_t cudaLaunchHostFunc(cudaStream_t s, cudaHostFn_t fn, void* u) { if (!S(s)->cap) fn(u); return 0; }
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes* a, const void* f) {
  memset(a, 0, sizeof *a);
  a->ptxVersion = a->binaryVersion = 90; a->maxThreadsPerBlock = 1024; a->numRegs = 32;
  return 0;
}
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* n, const void* f, int b, size_t d) { *n = b > 0 && b < 2048 ? 2048 / b : 1; return 0; }
cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* n, const void* f, int b, size_t d, unsigned fl) { return cudaOccupancyMaxActiveBlocksPerMultiprocessor(n, f, b, d); }
static int zero(void) { return 0; }
cudaError_t cudaGetDriverEntryPointByVersion(const char* sym, void** fn, unsigned v, unsigned long long fl, enum cudaDriverEntryPointQueryResult* r) { *fn = (void*)zero; if (r) *r = 0; return 0; }
cudaError_t cudaUserObjectCreate(cudaUserObject_t* o, void* p, cudaHostFn_t d, unsigned n, unsigned f) { *o = (cudaUserObject_t)calloc(1, 8); return 0; }
cudaError_t cudaMemPoolGetAttribute(cudaMemPool_t p, enum cudaMemPoolAttr a, void* v) { *(unsigned long long*)v = 0; return 0; }

// -------- cuBLAS: a product is one launch on the stream of the handle
static __thread cudaStream_t blas_stream;
int fake_gemm(void) { return launched((void*)fake_gemm, blas_stream); }
int cublasCreate_v2(void** h) { *h = calloc(1, 64); return 0; }
int cublasLtCreate(void** h) { *h = calloc(1, 64); return 0; }
int cublasSetStream_v2(void* h, cudaStream_t s) { blas_stream = s; return 0; }
int cublasGetMathMode(void* h, int* m) { *m = 0; return 0; }
int cublasGetPointerMode_v2(void* h, int* m) { *m = 0; return 0; }
unsigned long long cublasLtGetVersion(void) { return CUDART_VERSION * 10ull; }
int cublasLtMatmulAlgoGetHeuristic(void* a, void* b, void* c, void* d, void* e, void* f, void* g, int n, void* r, int* k) { *k = 1; return 0; }
