// bertft._core: checks shapes and types, releases the GIL and calls the headers beside this file.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <cstddef>
#include <cstdint>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>

#include "decoding.hpp"
#include "moments.hpp"
#include "neighbours.hpp"
#include "ranks.hpp"
#include "spearman.hpp"
#include "trees.hpp"

namespace py = pybind11;

namespace {

std::string text_of(const py::handle& object) { return py::cast<std::string>(py::str(object)); }

void check_shape(const char* function, const char* name, const py::array& array, const py::tuple& wanted) {
    const py::object shape = array.attr("shape");
    if (!shape.equal(wanted)) {
        throw py::value_error(std::string(function) + ": " + name + " has shape " + text_of(shape) + ", wanted " +
                              text_of(wanted));
    }
}

void check_dimensions(const char* function, const char* name, const py::array& array, py::ssize_t wanted) {
    if (array.ndim() != wanted) {
        throw py::value_error(std::string(function) + ": " + name + " has " + std::to_string(array.ndim()) +
                              " dimensions, wanted " + std::to_string(wanted) +
                              (wanted == 1 ? "; try " + std::string(name) + ".ravel()" : ""));
    }
}

void check_contiguous(const char* function, const char* name, const py::array& array) {
    constexpr int needed = py::detail::npy_api::NPY_ARRAY_C_CONTIGUOUS_ | py::detail::npy_api::NPY_ARRAY_ALIGNED_;
    if ((array.flags() & needed) != needed) {
        throw py::value_error(std::string(function) + ": " + name +
                              " is not contiguous in memory; try numpy.ascontiguousarray(" + name + ")");
    }
}

template <class Value>
const Value* data_of(const char* function, const char* name, const py::array& array, const char* type) {
    check_contiguous(function, name, array);
    if (!py::isinstance<py::array_t<Value>>(array)) {
        throw py::value_error(std::string(function) + ": " + name + " has type " + text_of(array.dtype()) +
                              ", wanted " + type + "; try " + name + ".astype(numpy." + type + ")");
    }
    return static_cast<const Value*>(array.data());
}

// The data of an array that the caller made to be written to.
template <class Value>
Value* written(const char* function, const char* name, py::array& array, const char* type, const py::tuple& shape) {
    check_shape(function, name, array, shape);
    data_of<Value>(function, name, array, type);
    return static_cast<Value*>(array.mutable_data());
}

// Calls work with the data as const double* or const float*, by its type.
template <class Work>
auto with_floats(const char* function, const char* name, const py::array& array, const Work& work) {
    check_contiguous(function, name, array);
    if (py::isinstance<py::array_t<double>>(array)) return work(static_cast<const double*>(array.data()));
    if (py::isinstance<py::array_t<float>>(array)) return work(static_cast<const float*>(array.data()));
    throw py::value_error(std::string(function) + ": " + name + " has type " + text_of(array.dtype()) +
                          ", wanted float64 or float32; try " + name + ".astype(numpy.float64)");
}

py::array_t<double> tied_ranks(const py::array& values, std::size_t threads) {
    check_dimensions("tied_ranks", "values", values, 1);
    return with_floats("tied_ranks", "values", values, [&](const auto* input) {
        py::array_t<double> ranks(values.size());
        double* output = ranks.mutable_data();
        const auto n = static_cast<std::size_t>(values.size());
        py::gil_scoped_release release;
        bertft::tied_ranks(input, n, output, threads);
        return ranks;
    });
}

py::array_t<std::int32_t> spanning_trees(const py::array& distances, const py::array& lengths, const py::array& keep,
                                         std::size_t threads) {
    constexpr const char* function = "spanning_trees";
    check_dimensions(function, "distances", distances, 3);
    const py::ssize_t batch = distances.shape(0), width = distances.shape(1);
    check_shape(function, "distances", distances, py::make_tuple(batch, width, width));
    check_shape(function, "lengths", lengths, py::make_tuple(batch));
    check_shape(function, "keep", keep, py::make_tuple(batch, width));
    const auto* length_of = data_of<std::int64_t>(function, "lengths", lengths, "int64");
    const auto* keeps = reinterpret_cast<const unsigned char*>(data_of<bool>(function, "keep", keep, "bool_"));
    return with_floats(function, "distances", distances, [&](const auto* cells) {
        py::array_t<std::int32_t> parents({batch, width});
        std::int32_t* output = parents.mutable_data();
        py::gil_scoped_release release;
        bertft::spanning_trees(cells, static_cast<std::size_t>(batch), static_cast<std::size_t>(width), length_of,
                               keeps, output, threads);
        return parents;
    });
}

py::array_t<double> row_spearman(const py::array& predicted, const py::array& gold, const py::array& lengths,
                                 std::size_t threads) {
    constexpr const char* function = "row_spearman";
    check_dimensions(function, "predicted", predicted, 2);
    const py::ssize_t rows = predicted.shape(0), width = predicted.shape(1);
    check_shape(function, "gold", gold, py::make_tuple(rows, width));
    check_shape(function, "lengths", lengths, py::make_tuple(rows));
    const auto* length_of = data_of<std::int64_t>(function, "lengths", lengths, "int64");
    return with_floats(function, "predicted", predicted, [&](const auto* x) {
        return with_floats(function, "gold", gold, [&](const auto* y) {
            py::array_t<double> correlations(rows);
            double* output = correlations.mutable_data();
            py::gil_scoped_release release;
            bertft::row_spearman(x, y, static_cast<std::size_t>(rows), static_cast<std::size_t>(width), length_of,
                                 output, threads);
            return correlations;
        });
    });
}

py::array_t<std::int32_t> arborescences(const py::array& scores, const py::array& lengths, std::size_t threads) {
    constexpr const char* function = "arborescences";
    check_dimensions(function, "scores", scores, 3);
    const py::ssize_t batch = scores.shape(0), width = scores.shape(1);
    check_shape(function, "scores", scores, py::make_tuple(batch, width, width + 1));
    check_shape(function, "lengths", lengths, py::make_tuple(batch));
    const auto* length_of = data_of<std::int64_t>(function, "lengths", lengths, "int64");
    return with_floats(function, "scores", scores, [&](const auto* cells) {
        py::array_t<std::int32_t> heads({batch, width});
        std::int32_t* output = heads.mutable_data();
        py::gil_scoped_release release;
        bertft::arborescences(cells, static_cast<std::size_t>(batch), static_cast<std::size_t>(width), length_of,
                              output, threads);
        return heads;
    });
}

template <class Value>
constexpr const char* type_of = sizeof(Value) == sizeof(double) ? "float64" : "float32";

bertft::RowMap row_map_named(const char* function, const std::string& name) {
    if (name == "raw") return bertft::RowMap::raw;
    if (name == "unit") return bertft::RowMap::unit;
    if (name == "centred_unit") return bertft::RowMap::centred_unit;
    throw py::value_error(std::string(function) + ": row_map is '" + name + "', wanted raw, unit or centred_unit");
}

using Limits = std::tuple<double, double, double>;

bertft::Limits limits_of(const Limits& given) { return {std::get<0>(given), std::get<1>(given), std::get<2>(given)}; }

void shift_rows(const py::array& x, const py::array& center, const std::string& row_map, bool distance,
                const Limits& limits, py::array stored, py::array offsets) {
    constexpr const char* function = "shift_rows";
    check_dimensions(function, "x", x, 2);
    const py::ssize_t n = x.shape(0), width = x.shape(1);
    check_shape(function, "center", center, py::make_tuple(width));
    const auto* shift_by = data_of<double>(function, "center", center, "float64");
    const bertft::RowMap map = row_map_named(function, row_map);
    auto* offset_of = written<double>(function, "offsets", offsets, "float64", py::make_tuple(n));
    with_floats(function, "x", x, [&](const auto* rows) {
        using Value = std::remove_const_t<std::remove_pointer_t<decltype(rows)>>;
        auto* shifted = written<Value>(function, "stored", stored, type_of<Value>, py::make_tuple(n, width));
        py::gil_scoped_release release;
        bertft::shift_rows(rows, static_cast<std::size_t>(n), static_cast<std::size_t>(width), shift_by, map, distance,
                           limits_of(limits), shifted, offset_of);
    });
}

void row_moments(const py::array& x, const py::array& y, const py::array& x_center, const py::array& y_center,
                 const std::string& row_map, const Limits& limits, py::array kept, bool again, py::array u, py::array v,
                 py::array ww, py::array wu, py::array wv) {
    constexpr const char* function = "row_moments";
    check_dimensions(function, "x", x, 2);
    check_dimensions(function, "y", y, 2);
    const py::ssize_t n = x.shape(0), d1 = x.shape(1), d2 = y.shape(1), scalars = bertft::SCALARS;
    check_shape(function, "y", y, py::make_tuple(n, d2));
    check_shape(function, "x_center", x_center, py::make_tuple(d1));
    check_shape(function, "y_center", y_center, py::make_tuple(d2));
    const auto* of_x = data_of<double>(function, "x_center", x_center, "float64");
    const auto* of_y = data_of<double>(function, "y_center", y_center, "float64");
    const bertft::RowMap map = row_map_named(function, row_map);
    auto* known = written<double>(function, "kept", kept, "float64", py::make_tuple(n, bertft::KEPT));
    auto* by_w = written<double>(function, "ww", ww, "float64", py::make_tuple(scalars, scalars));
    auto* by_u = written<double>(function, "wu", wu, "float64", py::make_tuple(scalars, d1));
    auto* by_v = written<double>(function, "wv", wv, "float64", py::make_tuple(scalars, d2));
    with_floats(function, "x", x, [&](const auto* x_rows) {
        with_floats(function, "y", y, [&](const auto* y_rows) {
            using X = std::remove_const_t<std::remove_pointer_t<decltype(x_rows)>>;
            using Y = std::remove_const_t<std::remove_pointer_t<decltype(y_rows)>>;
            const bertft::Side<X> x_side{x_rows, static_cast<std::size_t>(d1), of_x,
                                         written<X>(function, "u", u, type_of<X>, py::make_tuple(n, d1))};
            const bertft::Side<Y> y_side{y_rows, static_cast<std::size_t>(d2), of_y,
                                         written<Y>(function, "v", v, type_of<Y>, py::make_tuple(n, d2))};
            py::gil_scoped_release release;
            bertft::row_moments(x_side, y_side, static_cast<std::size_t>(n), map, limits_of(limits), known, again, by_w,
                                by_u, by_v);
        });
    });
}

py::array_t<double> inverse_lengths(const py::array& rows) {
    check_dimensions("inverse_lengths", "rows", rows, 2);
    return with_floats("inverse_lengths", "rows", rows, [&](const auto* cells) {
        py::array_t<double> inverses(rows.shape(0));
        double* output = inverses.mutable_data();
        const auto n = static_cast<std::size_t>(rows.shape(0)), width = static_cast<std::size_t>(rows.shape(1));
        py::gil_scoped_release release;
        bertft::inverse_lengths(cells, n, width, output);
        return inverses;
    });
}

void nearer_in_tile(const py::array& tile, std::size_t first_i, std::size_t first_j, const py::array& rows,
                    const py::array& inverses, const py::array& offsets, const py::array& slack, py::array values,
                    py::array numbers, py::array thresholds) {
    constexpr const char* function = "nearer_in_tile";
    check_dimensions(function, "tile", tile, 2);
    check_dimensions(function, "rows", rows, 2);
    check_dimensions(function, "values", values, 2);
    const py::ssize_t n = rows.shape(0), k = values.shape(1);
    const auto height = static_cast<std::size_t>(tile.shape(0)), breadth = static_cast<std::size_t>(tile.shape(1));
    const auto count = static_cast<std::size_t>(n);
    if (k < 1 || first_i > count || height > count - first_i || first_j > count || breadth > count - first_j) {
        throw py::value_error(std::string(function) + ": the tile has rows or columns beyond the " + std::to_string(n) +
                              " rows, or k is 0");
    }
    for (const auto& [name, array] : {std::pair{"inverses", inverses}, {"offsets", offsets}, {"slack", slack}}) {
        check_shape(function, name, array, py::make_tuple(n));
    }
    const auto* products = data_of<float>(function, "tile", tile, "float32");
    const auto* inverse_of = data_of<double>(function, "inverses", inverses, "float64");
    const auto* offset_of = data_of<float>(function, "offsets", offsets, "float32");
    const auto* slack_of = data_of<double>(function, "slack", slack, "float64");
    bertft::Nearest nearest{static_cast<std::size_t>(k),
                            written<double>(function, "values", values, "float64", py::make_tuple(n, k)),
                            written<std::int64_t>(function, "numbers", numbers, "int64", py::make_tuple(n, k)),
                            written<float>(function, "thresholds", thresholds, "float32", py::make_tuple(n))};
    with_floats(function, "rows", rows, [&](const auto* cells) {
        using Value = std::remove_const_t<std::remove_pointer_t<decltype(cells)>>;
        const bertft::Space<Value> space{cells, static_cast<std::size_t>(rows.shape(1)), inverse_of, offset_of,
                                         slack_of};
        py::gil_scoped_release release;
        bertft::nearer_in_tile(products, height, breadth, first_i, first_j, space, nearest);
    });
}

}  // namespace

PYBIND11_MODULE(_core, module) {
    module.doc() = "The compiled core of bertft; the functions here take NumPy arrays and run without the GIL.";
    module.def("tied_ranks", &tied_ranks, py::arg("values"), py::arg("threads") = 0,
               "Average ranks of a 1-D array, counted from 1, equal values sharing the mean of their ranks.");
    module.def("spanning_trees", &spanning_trees, py::arg("distances"), py::arg("lengths"), py::arg("keep"),
               py::arg("threads") = 0,
               "Parents of the kept words of each sentence in the spanning tree of their distances, -1 for none.");
    module.def("row_spearman", &row_spearman, py::arg("predicted"), py::arg("gold"), py::arg("lengths"),
               py::arg("threads") = 0,
               "Spearman's correlation of each row's first values, nan where one side is constant or holds a nan.");
    module.def("shift_rows", &shift_rows, py::arg("x"), py::arg("center"), py::arg("row_map"), py::arg("distance"),
               py::arg("limits"), py::arg("stored"), py::arg("offsets"),
               "Write mapped rows minus a center to `stored`, and the offset of each to `offsets`.");
    module.def("row_moments", &row_moments, py::arg("x"), py::arg("y"), py::arg("x_center"), py::arg("y_center"),
               py::arg("row_map"), py::arg("limits"), py::arg("kept"), py::arg("again"), py::arg("u"), py::arg("v"),
               py::arg("ww"), py::arg("wu"), py::arg("wv"),
               "Write the shifted rows u and v of two spaces and add to their sums w w^T, w u^T and w v^T.");
    module.def("inverse_lengths", &inverse_lengths, py::arg("rows"), "One over the length of each row.");
    module.def("nearer_in_tile", &nearer_in_tile, py::arg("tile"), py::arg("first_i"), py::arg("first_j"),
               py::arg("rows"), py::arg("inverses"), py::arg("offsets"), py::arg("slack"), py::arg("values"),
               py::arg("numbers"), py::arg("thresholds"),
               "Add the pairs of a tile of products to the nearest rows found so far, of both rows of each pair.");
    module.def("arborescences", &arborescences, py::arg("scores"), py::arg("lengths"), py::arg("threads") = 0,
               "Heads of the words of each sentence in its highest-scoring tree of one root, -1 beyond its end.");
}
