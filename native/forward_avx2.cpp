#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "decoder.h"
#include "lanes_avx2.h"

namespace bimo::avx2 {
#include "forward.h"
}
