// A corrector that `zopde export --to corrector.pt` wrote, for C and Fortran; needs libtorch.
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <stdexcept>
#include <torch/script.h>

using torch::jit::Module;

extern "C" {

// The network in a file; a null pointer if it does not load.
void *corrector_load(const char *file) {
  try {
    return new Module(torch::jit::load(file));
  } catch (const std::exception &error) {
    std::fprintf(stderr, "corrector: %s\n", error.what());
    return nullptr;
  }
}

// The correction of some states, float (batch, channel, *space), the last index the fastest, in
// physical units. `shape` has `dims` numbers. Returns 0, or 1 if it failed: then it says why.
int corrector_apply(void *network, const float *state, float *correction, const int64_t *shape,
                    int dims) {
  try {
    torch::InferenceMode no_gradient;
    auto sizes = torch::IntArrayRef(shape, dims);
    auto given = torch::from_blob(const_cast<float *>(state), sizes, torch::kFloat32);
    auto answer = static_cast<Module *>(network)->forward({given}).toTensor().contiguous();
    if (answer.sizes() != sizes || answer.scalar_type() != torch::kFloat32)
      throw std::runtime_error("the answer is not of the state's shape and type");
    std::memcpy(correction, answer.data_ptr<float>(), answer.nbytes());
    return 0;
  } catch (const std::exception &error) {
    std::fprintf(stderr, "corrector: %s\n", error.what());
    return 1;
  }
}

void corrector_free(void *network) { delete static_cast<Module *>(network); }
}
