// The Node addon: registers seekcachesrc in this process, so that a player binding (gst-kit and the like) finds it
// without a GST_PLUGIN_PATH. It starts no threads and never touches Node's loop: the element's work is in GStreamer's
// threads and in the host.
//
// Threading: both functions may be called from the main thread and from workers. Blocking: register() may read GStreamer's
// registry, once, if nothing in the process has initialised GStreamer yet.

#include <gst/gst.h>
#include <napi.h>

#include <string>

#include "../gst/seekcachesrc.h"

namespace {

bool initialise(Napi::Env env) {
  GError *error = nullptr;
  if (gst_init_check(nullptr, nullptr, &error)) return true;
  std::string message = "GStreamer cannot be initialised: ";
  message += error == nullptr ? "no reason is given" : error->message;
  g_clear_error(&error);
  Napi::Error::New(env, message).ThrowAsJavaScriptException();
  return false;
}

// An element of that name that is already known, from the plugin or an earlier call, is as good.
bool isKnown() {
  GstElementFactory *factory = gst_element_factory_find("seekcachesrc");
  if (factory == nullptr) return false;
  gst_object_unref(factory);
  return true;
}

void registerElement(const Napi::CallbackInfo &info) {
  if (!initialise(info.Env()) || isKnown() || gst_seek_cache_src_register(nullptr)) return;
  Napi::Error::New(info.Env(), "GStreamer refused to register seekcachesrc").ThrowAsJavaScriptException();
}

Napi::Value gstVersion(const Napi::CallbackInfo &info) {
  guint major, minor, micro, nano;
  gst_version(&major, &minor, &micro, &nano);
  return Napi::String::New(info.Env(),
                           std::to_string(major) + "." + std::to_string(minor) + "." + std::to_string(micro));
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  exports.Set("register", Napi::Function::New(env, registerElement, "register"));
  exports.Set("gstVersion", Napi::Function::New(env, gstVersion, "gstVersion"));
  return exports;
}

}  // namespace

NODE_API_MODULE(seekcache, init)
