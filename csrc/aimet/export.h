// AIMET_API marks what libaimet.so exports; everything else is hidden.
#pragma once

#if defined(AIMET_BUILDING_LIBRARY)
#define AIMET_API __attribute__((visibility("default")))
#else
#define AIMET_API
#endif
