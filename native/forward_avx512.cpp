#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "decoder.h"
#include "lanes_avx512.h"

namespace bimo::avx512 {
#include "forward.h"
}
