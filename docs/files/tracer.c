/* A shared library: gcc -O2 -shared -fPIC tracer.c -o libtracer.so */
#include <stdlib.h>
#include <string.h>

void step(double *state, int channels, int ny, int nx) {
  size_t size = sizeof(double) * channels * ny * nx;
  double *u = malloc(size);
  memcpy(u, state, size);
  for (int c = 0; c < channels; c++)
    for (int j = 0; j < ny; j++)
      for (int i = 0; i < nx; i++) {
        double here = u[(c * ny + j) * nx + i];
        double south = u[(c * ny + (j + ny - 1) % ny) * nx + i];
        double west = u[(c * ny + j) * nx + (i + nx - 1) % nx];
        state[(c * ny + j) * nx + i] = here - 0.2 * (0.6 * (here - south) + 1.0 * (here - west));
      }
  free(u);
}
