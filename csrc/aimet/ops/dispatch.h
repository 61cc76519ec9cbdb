// Calls through the dispatcher. The handle is looked up at the first call, when schemas.cpp is
// registered for sure.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

namespace aimet::ops {

template <typename Signature>
c10::TypedOperatorHandle<Signature> find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>();
}

}  // namespace aimet::ops
