// ringfold for C++17: the C header with owners, exceptions and element types. Header-only, over ringfold.h.
#ifndef RINGFOLD_HPP
#define RINGFOLD_HPP

#include "ringfold.h"

#include <cstddef>
#include <memory>
#include <stdexcept>
#include <string>
#include <type_traits>

namespace ringfold {

// What a call threw: the text is what(), and the rest of who, what and why is there, too.
class Error : public std::runtime_error {
public:
    explicit Error(const rf_error &error) : std::runtime_error(error.text), error_(error) {}
    rf_status status() const noexcept { return error_.status; }
    rf_kind kind() const noexcept { return error_.kind; }
    // The rank that is to blame, or -1.
    std::int64_t peer() const noexcept { return error_.peer; }
    const rf_error &all() const noexcept { return error_; }

private:
    rf_error error_;
};

namespace detail {
template <class Call> void check(Call &&call) {
    rf_error error = RF_ERROR_INIT;
    if (call(&error) != RF_OK)
        throw Error(error);
}

template <class Handle, void (*release)(Handle *)> struct Release {
    void operator()(Handle *handle) const noexcept { release(handle); }
};
template <class Handle, void (*release)(Handle *)> using Owner = std::unique_ptr<Handle, Release<Handle, release>>;
} // namespace detail

// The element type of a C++ type.
template <class T> rf_dtype dtype() {
    static_assert(std::is_arithmetic_v<T> && !std::is_same_v<T, bool> && sizeof(T) <= 8, "not an element type");
    const std::uint8_t code = std::is_floating_point_v<T> ? 2 : std::is_signed_v<T> ? 0 : 1;
    return rf_dtype{code, std::uint8_t(8 * sizeof(T)), 1};
}

// An operation that has been started. Its memory has to stay until it is complete; dropping this detaches it.
class Request {
public:
    // Blocks until it is complete; throws what became of it.
    void wait() {
        detail::check([&](rf_error *error) { return rf_request_wait(handle_.get(), -1, error); });
    }
    // Whether it is complete. Throws where it has failed.
    bool ready() {
        rf_error error = RF_ERROR_INIT;
        const rf_status status = rf_request_test(handle_.get(), &error);
        if (status != RF_OK && status != RF_PENDING)
            throw Error(error);
        return status == RF_OK;
    }
    rf_request *get() const noexcept { return handle_.get(); }

private:
    friend class Communicator;
    detail::Owner<rf_request, rf_request_release> handle_;
};

// One rank's membership in a group. Throws Error. For one thread at a time.
class Communicator {
public:
    // Joins the group that this process was launched into.
    explicit Communicator(const rf_config *config = nullptr) {
        rf_comm *comm = nullptr;
        detail::check([&](rf_error *error) { return rf_comm_create(config, &comm, error); });
        handle_.reset(comm);
    }
    // Takes over a communicator of the C header's.
    static Communicator adopt(rf_comm *comm) { return Communicator(comm); }

    std::int64_t rank() const noexcept { return rf_comm_rank(get()); }
    std::int64_t size() const noexcept { return rf_comm_size(get()); }
    rf_comm *get() const noexcept { return handle_.get(); }
    void abort(const std::string &reason) const noexcept { rf_comm_abort(get(), reason.c_str()); }
    Communicator duplicate() {
        rf_comm *comm = nullptr;
        detail::check([&](rf_error *error) { return rf_comm_duplicate(get(), &comm, error); });
        return adopt(comm);
    }

    // Containers with data() and size(): vectors, arrays, spans.
    template <class Data> void all_reduce(Data &data, rf_op op, const rf_options *options = nullptr) {
        detail::check([&](rf_error *error) {
            return rf_all_reduce(get(), data.data(), data.data(), data.size(), of(data), op, options, error);
        });
    }
    template <class Data> void broadcast(Data &data, std::int64_t root, const rf_options *options = nullptr) {
        detail::check([&](rf_error *error) {
            return rf_broadcast(get(), data.data(), data.data(), data.size(), of(data), root, options, error);
        });
    }
    // `output` has room for what all ranks put in.
    template <class In, class Out>
    void all_gather(const In &input, Out &output, const rf_options *options = nullptr) {
        static_assert(std::is_same_v<std::remove_cv_t<std::remove_reference_t<decltype(*input.data())>>,
                                     std::remove_reference_t<decltype(*output.data())>>,
                      "input and output have different element types");
        if (output.size() != input.size() * std::size_t(size()))
            throw std::invalid_argument("all_gather: the output has not room for the inputs of all ranks");
        detail::check([&](rf_error *error) {
            return rf_all_gather(get(), input.data(), output.data(), input.size(), of(input), options, error);
        });
    }
    void barrier(const rf_options *options = nullptr) {
        detail::check([&](rf_error *error) { return rf_barrier(get(), options, error); });
    }
    // The same, started.
    template <class Data> Request start_all_reduce(Data &data, rf_op op) {
        Request request;
        rf_request *handle = nullptr;
        rf_options options = RF_OPTIONS_INIT;
        options.request = &handle;
        all_reduce(data, op, &options);
        request.handle_.reset(handle);
        return request;
    }

private:
    explicit Communicator(rf_comm *comm) : handle_(comm) {}
    template <class Data> static rf_dtype of(const Data &data) {
        return dtype<std::remove_cv_t<std::remove_reference_t<decltype(*data.data())>>>();
    }
    detail::Owner<rf_comm, rf_comm_release> handle_;
};

} // namespace ringfold

#endif
