"""A trained corrector, used again."""

from zopde import (
    CorrectedSolver,
    load_corrector,
    load_solver,
    load_trajectories,
    rollout,
    rollout_error,
)

solver = load_solver("burgers").at((32, 32))
network = load_corrector("runs/first/ZO-interface/seed-0/model.safetensors")
data = load_trajectories("runs/burgers-128x128-32x32-seed1.nc", solver.grid).take(slice(8, 9))

for name, stepper in (("coarse", solver), ("corrected", CorrectedSolver(solver, network))):
    states = rollout(stepper, data.states[:, 0], data.steps, lambda t: data.forcing[:, t])
    print(f"{name:<10} {float(rollout_error(states, data.states).mae.mean()):.4f}")
