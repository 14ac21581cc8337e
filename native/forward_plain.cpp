#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>

#include "decoder.h"
#include "lanes_plain.h"

namespace bimo::plain {
#include "forward.h"
}
