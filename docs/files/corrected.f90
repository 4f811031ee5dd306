! A tracer in a known wind, corrected at every step by the network in corrector.pt.
program corrected
  use, intrinsic :: iso_c_binding
  implicit none
  interface
    type(c_ptr) function corrector_load(file) bind(c)
      import :: c_ptr, c_char
      character(kind=c_char), intent(in) :: file(*)
    end function
    integer(c_int) function corrector_apply(network, state, correction, sizes, dims) bind(c)
      import :: c_ptr, c_int, c_float, c_int64_t
      type(c_ptr), value :: network
      real(c_float), intent(in) :: state(*)
      real(c_float), intent(out) :: correction(*)
      integer(c_int64_t), intent(in) :: sizes(*)
      integer(c_int), value :: dims
    end function
    subroutine corrector_free(network) bind(c)
      import :: c_ptr
      type(c_ptr), value :: network
    end subroutine
  end interface
  integer, parameter :: n = 16, steps = 10
  integer(c_int64_t), parameter :: sizes(4) = [1, 1, n, n]  ! batch, channel, y, x
  real(c_float) :: u(n, n), correction(n, n)  ! x first: it lies closest together
  type(c_ptr) :: network
  integer :: i, j, step

  network = corrector_load('corrector.pt'//c_null_char)
  if (.not. c_associated(network)) stop 1
  u = reshape([((exp(-((i - 6.5)**2 + (j - 8.5)**2)/6), i=1, n), j=1, n)], [n, n])
  do step = 1, steps
    u = u - 0.2*(1.0*(u - cshift(u, -1, 1)) + 0.6*(u - cshift(u, -1, 2)))  ! your solver
    if (corrector_apply(network, u, correction, sizes, 4) /= 0) stop 1
    u = u + correction
  end do
  call corrector_free(network)
  open (10, file='state.bin', access='stream', form='unformatted', status='replace')
  write (10) u
  close (10)
  print '(a, f8.5)', 'largest tracer after 10 steps:', maxval(u)
end program
