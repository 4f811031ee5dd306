! Stays alive: state after state over stdin and stdout, until stdin ends.
!   in: int32 count, then the state as float64;  out: the same
program resident
  use, intrinsic :: iso_fortran_env, only: int32, real64
  use transport, only: advance
  implicit none
  integer, parameter :: nx = 16, ny = 16
  real(real64) :: u(nx, ny)
  integer(int32) :: count
  integer :: ended, states, answers
  open(newunit=states, file='/dev/stdin', access='stream', form='unformatted', action='read')
  open(newunit=answers, file='/dev/stdout', access='stream', form='unformatted', action='write')
  do
    read(states, iostat=ended) count
    if (ended /= 0) exit
    if (count /= size(u)) error stop 'a state of another size'
    read(states) u
    call advance(u, nx, ny)
    write(answers) count, u
    flush(answers)
  end do
end program resident
