// Encodings files: shows, checks and converts them. Needs nothing of LibTorch but to link.
//
//   encodings model.encodings [VERSION converted.encodings]
#include <aimet/encodings/encodings.h>

#include <iostream>

namespace enc = aimet::encodings;

void show(const char* section, const std::vector<enc::TensorEncoding>& encodings) {
  std::cout << section << ":\n";
  for (const enc::TensorEncoding& encoding : encodings) {
    std::cout << "  " << encoding.name << ": ";
    if (encoding.dtype == enc::DataType::kFloat) {
      std::cout << "float" << encoding.bitwidth << '\n';
    } else if (!encoding.has_grid()) {
      std::cout << encoding.bitwidth << " bits, not calibrated\n";
    } else {
      std::cout << encoding.bitwidth << " bits, " << (encoding.is_symmetric ? "" : "a")
                << "symmetric, " << encoding.scale.size() << " scale(s), first "
                << encoding.scale[0] << " offset " << encoding.offset[0] << '\n';
    }
  }
}

int main(int count, char** arguments) {
  if (count != 2 && count != 4) {
    std::cerr << "usage: encodings FILE [VERSION CONVERTED]\n";
    return 2;
  }
  try {
    enc::EncodingsDocument document = enc::read_file(arguments[1]);
    std::cout << "version " << document.version << '\n';
    show("activations", document.activation_encodings);
    show("parameters", document.param_encodings);
    enc::validate(document, arguments[1]);
    if (count == 4) {
      enc::write_file(arguments[3], document, arguments[2]);
      // Numbers survive: what was written reads back as what was read.
      const enc::EncodingsDocument again = enc::read_file(arguments[3]);
      const auto& before = document.activation_encodings;
      const auto& after = again.activation_encodings;
      bool is_equal = before.size() == after.size();
      for (size_t i = 0; is_equal && i < before.size(); ++i) {
        is_equal = before[i].scale == after[i].scale && before[i].offset == after[i].offset;
      }
      std::cout << "converted to " << again.version << (is_equal ? "" : ", with loss") << '\n';
    }
  } catch (const enc::EncodingsError& error) {  // file, place in the JSON, and reason
    std::cerr << error.what() << '\n';
    return 1;
  }
}
