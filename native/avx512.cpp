#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <utility>
#include <vector>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "decoder.h"
#include "lanes_avx512.h"

namespace bimo::avx512 {
#include "forward.h"
#include "training.h"
#include "vectors.h"
}
