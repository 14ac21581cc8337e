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
#include "lanes_avx2.h"

namespace bimo::avx2 {
#include "forward.h"
#include "training.h"
#include "vectors.h"
}
