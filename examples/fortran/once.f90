! A run per step, as most codes work: reads state.bin, writes answer.bin, raw float64.
program once
  use, intrinsic :: iso_fortran_env, only: real64
  use transport, only: advance
  implicit none
  integer, parameter :: nx = 16, ny = 16
  real(real64) :: u(nx, ny)
  integer :: file
  open(newunit=file, file='state.bin', access='stream', form='unformatted', status='old')
  read(file) u
  close(file)
  call advance(u, nx, ny)
  open(newunit=file, file='answer.bin', access='stream', form='unformatted', status='replace')
  write(file) u
  close(file)
end program once
