#include "failure.h"

namespace seekcache::gst {

namespace {

/* souphttpsrc's classes, so that an application that switches sources keeps its error handling. */
GstResourceError resourceError(const Error &error, During during) {
  switch (error.httpStatus) {
    case 401:
    case 402:
    case 403:
    case 407:
      return GST_RESOURCE_ERROR_NOT_AUTHORIZED;
    case 404:
    case 410:
      return GST_RESOURCE_ERROR_NOT_FOUND;
    default:
      break;
  }
  if (error.is(code::kUsage)) return GST_RESOURCE_ERROR_SETTINGS;
  if (during == During::read) return GST_RESOURCE_ERROR_READ;
  return error.is(code::kHostUnavailable) ? GST_RESOURCE_ERROR_NOT_FOUND : GST_RESOURCE_ERROR_OPEN_READ;
}

}  // namespace

void postError(GstElement *element, const Error &error, During during) {
  GstStructure *details =
      gst_structure_new("details", "seekcache-code", G_TYPE_STRING, error.code.c_str(), nullptr);
  if (error.httpStatus != 0) {
    gst_structure_set(details, "http-status-code", G_TYPE_UINT, static_cast<guint>(error.httpStatus), nullptr);
  }
  gchar *text = g_utf8_make_valid(error.message.c_str(), -1);
  gst_element_message_full_with_details(element, GST_MESSAGE_ERROR, GST_RESOURCE_ERROR, resourceError(error, during),
                                        text, g_strdup(error.code.c_str()), __FILE__, G_STRFUNC, __LINE__, details);
}

}  // namespace seekcache::gst
