// bertft._core: checks shapes and types, releases the GIL and forwards to the headers beside this file.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <string>

#include "ranks.hpp"

namespace py = pybind11;

namespace {

template <class Value>
py::array_t<double> ranks_of(const py::array& values, std::size_t threads) {
    py::array_t<double> ranks(values.size());
    const auto* input = static_cast<const Value*>(values.data());
    double* output = ranks.mutable_data();
    const auto n = static_cast<std::size_t>(values.size());
    py::gil_scoped_release release;
    bertft::tied_ranks(input, n, output, threads);
    return ranks;
}

py::array_t<double> tied_ranks(const py::array& values, std::size_t threads) {
    if (values.ndim() != 1) {
        throw py::value_error("tied_ranks: values has " + std::to_string(values.ndim()) +
                              " dimensions, wanted 1; try values.ravel()");
    }
    constexpr int needed = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((values.flags() & needed) != needed) {
        throw py::value_error("tied_ranks: values is not contiguous in memory; try numpy.ascontiguousarray(values)");
    }
    if (py::isinstance<py::array_t<double>>(values)) return ranks_of<double>(values, threads);
    if (py::isinstance<py::array_t<float>>(values)) return ranks_of<float>(values, threads);
    throw py::value_error("tied_ranks: values has type " + py::cast<std::string>(py::str(values.dtype())) +
                          ", wanted float64 or float32; try values.astype(numpy.float64)");
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "The compiled core of bertft; the functions here take NumPy arrays and run without the GIL.";
    module.def("tied_ranks", &tied_ranks, py::arg("values"), py::arg("threads") = 0,
               "Average ranks of a 1-D array, counted from 1, equal values sharing the mean of their ranks.");
}
