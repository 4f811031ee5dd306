"""A program that reads state.nc, takes 0.99 of it, and answers in one of many layouts."""

import sys

import h5netcdf
import numpy as np
from scipy.io import netcdf_file

kind = sys.argv[1]
with h5netcdf.File("state.nc") as file:
    u = 0.99 * file["tracer"][...]
places = np.arange(u.shape[0]) + 0.5
two = np.stack([5 * u, u])  # the last is the answer


def classic(version, dims, values, unlimited="", **coordinates):
    with netcdf_file("answer.nc", "w", version=version) as file:
        for dim, size in zip(dims, values.shape, strict=True):
            file.createDimension(dim, None if dim == unlimited else size)
        for name, numbers in coordinates.items():
            file.createVariable(name, "d", (name,))[:] = numbers
        file.createVariable("tracer", "d", dims)[:] = values


def newer(dims, values, **coordinates):
    with h5netcdf.File("answer.nc", "w") as file:
        for dim, size in zip(dims, values.shape, strict=True):
            file.dimensions[dim] = size
        for name, numbers in coordinates.items():
            file.create_variable(name, (name,), float)[...] = numbers
        file.create_variable("tracer", dims, float)[...] = values


match kind:
    case "classic":
        classic(1, ("y", "x"), u)
    case "offset64":
        classic(2, ("y", "x"), u)
    case "classic, times":
        classic(1, ("time", "y", "x"), two, "time", time=[0.0, 0.2])
    case "times, back":
        classic(1, ("time", "y", "x"), two[::-1], "time", time=[0.2, 0.0])
    case "times":
        newer(("time", "y", "x"), two)
    case "times, last":
        newer(("x", "y", "t"), two.T)
    case "one level":
        newer(("z", "y", "x"), u[None])
    case "falling y":
        newer(("y", "x"), u[::-1], y=places[::-1])
    case "levels":
        newer(("z", "y", "x"), two)
    case "other axes":
        newer(("lat", "lon"), u)
    case "no time":
        classic(1, ("time", "y", "x"), two[:0], "time")
    case "unwritten":
        u[0, 0] = 9.969209968386869e36
        classic(1, ("y", "x"), u)
    case "cut short":
        classic(1, ("y", "x"), u)
        with open("answer.nc", "r+b") as cut:
            cut.truncate(150)
    case "newest":
        with open("answer.nc", "wb") as cut:
            cut.write(b"CDF\x05" + bytes(200))
