// Toeplitz products against the matrices that define them.
#include "ops/toeplitz/toeplitz.h"

#include <gtest/gtest.h>

#include "core/rng.h"

namespace basis::ops {
namespace {

TEST(Toeplitz, EqualsItsMatrix) {
  core::HostRandom random(3, 1);
  for (int64_t n : {1, 2, 5, 16, 33})
    for (int64_t m : {int64_t{0}, int64_t{1}, n})
      for (bool transposed : {false, true}) {
        int64_t c = 3, used = m ? m : n;
        std::vector<double> a(static_cast<size_t>(n)), x(size_t(n * c)), expected(x.size(), 0.0);
        for (double& v : a) v = random.normal();
        for (double& v : x) v = random.normal();
        for (int64_t i = n - used; i < n; ++i)
          for (int64_t j = n - used; j <= i; ++j)
            for (int64_t k = 0; k < c; ++k)
              expected[size_t((transposed ? j : i) * c + k)] +=
                  a[size_t(i - j)] * x[size_t((transposed ? i : j) * c + k)];
        auto y = toeplitz(Var(Tensor::from(a, {n})), Var(Tensor::from(x, {n, c})), {m, transposed})
                     .value()
                     .to_vector<double>();
        for (size_t i = 0; i < y.size(); ++i)
          EXPECT_NEAR(y[i], expected[i], 1e-13) << n << " " << m << " " << transposed;
      }
}

}  // namespace
}  // namespace basis::ops
