// Segments an image in C++: an ONNX or OpenVINO file of `rsseg-tf export`, OpenVINO's runtime, and libpng.
//
//     segment model.onnx image.png labels.png [--stride HEIGHT WIDTH] [--threads N]
//
// Images are 8-bit PNG files of three bands, of any size; labels are class ids in a grey PNG. A model that was exported
// for one size (--tile) takes overlapping windows of it, whose logits are averaged; the stride is three quarters of the
// size unless it is given. Labels equal those of `rsseg-tf predict --engine openvino --blend mean`. The names of the
// classes are in the manifest.json beside the model.

#include <png.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <iostream>
#include <memory>
#include <openvino/openvino.hpp>
#include <stdexcept>
#include <string>
#include <vector>

struct Image {
    size_t height = 0, width = 0, bands = 0;
    std::vector<uint8_t> pixels;  // row by row, the bands of a pixel side by side
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

[[noreturn]] void fail_png(png_structp, png_const_charp message) { throw std::runtime_error(message); }

void ignore_png(png_structp, png_const_charp) {}

Image read_png(const std::string& path) {
    const File file(std::fopen(path.c_str(), "rb"), std::fclose);
    if (!file) throw std::runtime_error(path + " cannot be read");
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, nullptr, fail_png, ignore_png);
    png_infop info = png_create_info_struct(png);
    png_init_io(png, file.get());
    // Values as they are in the file: no alpha, palettes as their colours, no gamma.
    png_read_png(png, info, PNG_TRANSFORM_EXPAND | PNG_TRANSFORM_STRIP_ALPHA, nullptr);
    Image image{png_get_image_height(png, info), png_get_image_width(png, info), png_get_channels(png, info), {}};
    if (png_get_bit_depth(png, info) != 8 || image.bands != 3)
        throw std::runtime_error(path + " is no image of three bands of 8 bits");
    for (png_bytepp row = png_get_rows(png, info), end = row + image.height; row != end; ++row)
        image.pixels.insert(image.pixels.end(), *row, *row + image.width * image.bands);
    png_destroy_read_struct(&png, &info, nullptr);
    return image;
}

void write_png(const std::string& path, const Image& labels) {
    png_image header{};
    header.version = PNG_IMAGE_VERSION;
    header.width = static_cast<png_uint_32>(labels.width);
    header.height = static_cast<png_uint_32>(labels.height);
    header.format = PNG_FORMAT_GRAY;
    if (!png_image_write_to_file(&header, path.c_str(), 0, labels.pixels.data(), 0, nullptr))
        throw std::runtime_error(path + " cannot be written: " + header.message);
}

// Index into a line of pixels that is continued by its mirror image, without repeating the last one.
size_t mirrored(size_t index, size_t size) {
    if (size == 1) return 0;
    const size_t period = 2 * (size - 1);
    index %= period;
    return index < size ? index : period - index;
}

// First pixels of the windows along an axis; the last one ends with the image.
std::vector<size_t> starts(size_t size, size_t window, size_t stride) {
    const size_t last = size > window ? size - window : 0;
    std::vector<size_t> found;
    for (size_t start = 0; start < last; start += stride) found.push_back(start);
    found.push_back(last);
    return found;
}

class Model {
   public:
    Model(const std::string& path, int threads) {
        ov::Core core;
        // Numbers of 32 bits: processors with shorter ones would use those, and a few labels would differ.
        ov::AnyMap options{{ov::hint::inference_precision.name(), ov::element::f32}};
        if (threads > 0) options[ov::inference_num_threads.name()] = threads;
        compiled_ = core.compile_model(path, "CPU", options);
        const ov::PartialShape shape = compiled_.input("pixels").get_partial_shape();
        if (compiled_.input("pixels").get_element_type() != ov::element::u8 || shape[3] != 3)
            throw std::runtime_error("this example takes models of three bands of 8 bits; " + path + " is for others");
        if (shape[1].is_static() && shape[2].is_static()) {
            tile_height = static_cast<size_t>(shape[1].get_length());
            tile_width = static_cast<size_t>(shape[2].get_length());
        }
        request_ = compiled_.create_infer_request();
    }

    // Logits (height, width, classes) of the window of an image that begins at (top, left).
    ov::Tensor logits(const Image& image, size_t top, size_t left, size_t height, size_t width) {
        ov::Tensor pixels(ov::element::u8, {1, height, width, image.bands});
        uint8_t* to = pixels.data<uint8_t>();
        for (size_t y = 0; y < height; ++y)
            for (size_t x = 0; x < width; ++x) {
                const size_t row = top + mirrored(y, image.height - top), column = left + mirrored(x, image.width - left);
                to = std::copy_n(&image.pixels[(row * image.width + column) * image.bands], image.bands, to);
            }
        request_.set_tensor("pixels", pixels);
        request_.infer();
        return request_.get_tensor("logits");
    }

    size_t tile_height = 0, tile_width = 0;  // 0 for any size

   private:
    ov::CompiledModel compiled_;
    ov::InferRequest request_;
};

// Class ids of an image: means of the logits of all windows that a pixel is in.
Image segment(Model& model, const Image& image, size_t stride_height, size_t stride_width) {
    const bool whole = model.tile_height == 0;
    const size_t height = whole ? image.height : model.tile_height, width = whole ? image.width : model.tile_width;
    if (stride_height == 0) stride_height = std::max<size_t>(1, height * 3 / 4);
    if (stride_width == 0) stride_width = std::max<size_t>(1, width * 3 / 4);
    size_t classes = 0;
    std::vector<double> sums;
    std::vector<int> counts(image.height * image.width);
    for (const size_t top : starts(image.height, height, stride_height))
        for (const size_t left : starts(image.width, width, stride_width)) {
            const ov::Tensor logits = model.logits(image, top, left, height, width);
            classes = logits.get_shape()[3];
            sums.resize(counts.size() * classes);
            const float* values = logits.data<const float>();
            for (size_t y = 0; y < height && top + y < image.height; ++y)
                for (size_t x = 0; x < width && left + x < image.width; ++x) {
                    const size_t pixel = (top + y) * image.width + left + x;
                    for (size_t k = 0; k < classes; ++k) sums[pixel * classes + k] += values[(y * width + x) * classes + k];
                    ++counts[pixel];
                }
        }
    Image labels{image.height, image.width, 1, {}};
    std::vector<float> means(classes);
    for (size_t pixel = 0; pixel < counts.size(); ++pixel) {
        for (size_t k = 0; k < classes; ++k) means[k] = static_cast<float>(sums[pixel * classes + k] / counts[pixel]);
        labels.pixels.push_back(static_cast<uint8_t>(std::max_element(means.begin(), means.end()) - means.begin()));
    }
    return labels;
}

int main(int argc, char** argv) try {
    std::vector<std::string> words(argv + 1, argv + argc), files;
    size_t stride_height = 0, stride_width = 0;
    int threads = 0;
    for (size_t i = 0; i < words.size(); ++i) {
        if (words[i] == "--stride" && i + 2 < words.size()) {
            stride_height = std::stoul(words[++i]);
            stride_width = std::stoul(words[++i]);
        } else if (words[i] == "--threads" && i + 1 < words.size()) {
            threads = std::stoi(words[++i]);
        } else {
            files.push_back(words[i]);
        }
    }
    if (files.size() != 3) {
        std::cerr << "usage: segment MODEL IMAGE.png LABELS.png [--stride HEIGHT WIDTH] [--threads N]\n";
        return 2;
    }
    Model model(files[0], threads);
    const Image labels = segment(model, read_png(files[1]), stride_height, stride_width);
    write_png(files[2], labels);
    std::vector<size_t> counts(256);
    for (const uint8_t label : labels.pixels) ++counts[label];
    for (size_t k = 0; k < counts.size(); ++k)
        if (counts[k]) std::printf("%5.1f %%  class %zu\n", 100.0 * counts[k] / labels.pixels.size(), k);
    return 0;
} catch (const std::exception& error) {
    std::cerr << "Error: " << error.what() << "\n";
    return 1;
}
