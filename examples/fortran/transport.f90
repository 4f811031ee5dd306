! One step of a tracer in a known wind: first-order upwind advection and a little diffusion on a
! periodic box. A code as many groups own one, but for its length; three programs use it here.
module transport
  use, intrinsic :: iso_c_binding, only: c_double, c_int
  implicit none
  integer, parameter :: real64 = c_double
  real(real64), parameter :: dt = 0.1_real64, wind(2) = [1.0_real64, 0.6_real64], nu = 0.01_real64
contains
  subroutine advance(u, nx, ny)
    integer, intent(in) :: nx, ny
    real(real64), intent(inout) :: u(nx, ny)
    real(real64) :: west(nx, ny), east(nx, ny), south(nx, ny), north(nx, ny), dx, dy
    dx = 16.0_real64 / nx
    dy = 16.0_real64 / ny
    west = cshift(u, -1, 1)
    east = cshift(u, 1, 1)
    south = cshift(u, -1, 2)
    north = cshift(u, 1, 2)
    u = u - dt * (wind(1) * (u - west) / dx + wind(2) * (u - south) / dy) &
          + dt * nu * ((east - 2 * u + west) / dx**2 + (north - 2 * u + south) / dy**2)
  end subroutine advance

  ! What a shared library shows to the outside: C's calls, the sizes by value.
  subroutine step(u, channels, ny, nx) bind(c)
    integer(c_int), value :: channels, ny, nx
    real(c_double), intent(inout) :: u(nx, ny, channels)
    integer :: c
    do c = 1, channels
      call advance(u(:, :, c), nx, ny)
    end do
  end subroutine step
end module transport
