// A read that is never waited for: what the kernel has of a file in memory is copied at once, in the calling thread. The
// host uses it for short reads, where handing the read to a thread of Node's pool and back costs more than the copy.
//
// Threading: from any thread; no state. Blocking: never on the disk (preadv2(2), RWF_NOWAIT, Linux 4.14). Ownership: the
// buffer is the caller's, and used during the call only.

#include <napi.h>

#ifdef __linux__
#include <sys/uio.h>
#endif

namespace {

#ifdef RWF_NOWAIT
// readNow(fd, buffer, position) -> bytes read, from the start of the buffer on; 0 where a read would have to wait, where the
// file ends, and where the file system cannot tell: whoever asked reads as ever then, and meets any error there.
Napi::Value readNow(const Napi::CallbackInfo &info) {
  const int fd = info[0].As<Napi::Number>().Int32Value();
  auto buffer = info[1].As<Napi::Uint8Array>();
  const auto position = static_cast<off_t>(info[2].As<Napi::Number>().Int64Value());
  const iovec target{buffer.Data(), buffer.ByteLength()};
  const ssize_t length = preadv2(fd, &target, 1, position, RWF_NOWAIT);
  return Napi::Number::New(info.Env(), length < 0 ? 0 : static_cast<double>(length));
}
#endif

Napi::Object init(Napi::Env env, Napi::Object exports) {
#ifdef RWF_NOWAIT
  exports.Set("readNow", Napi::Function::New(env, readNow, "readNow"));
#endif
  return exports;
}

}  // namespace

NODE_API_MODULE(page_cache, init)
