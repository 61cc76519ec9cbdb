// Reading and replacing files.

#include "samples.h"
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <string>
#include <vector>

namespace aimet::encodings {
namespace {

namespace fs = std::filesystem;
using testing::kFile061;
using testing::kFile100;

class EncodingsFile : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string pattern = (fs::temp_directory_path() / "aimet-encodings-XXXXXX").string();
    ASSERT_NE(::mkdtemp(pattern.data()), nullptr);
    directory_ = pattern;
  }
  void TearDown() override { fs::remove_all(directory_); }

  std::string path(const std::string& name) const { return (directory_ / name).string(); }
  std::string content(const std::string& name) const {
    std::ifstream file(directory_ / name, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  std::vector<std::string> names() const {
    std::vector<std::string> found;
    for (const auto& entry : fs::directory_iterator(directory_)) {
      found.push_back(entry.path().filename().string());
    }
    return found;
  }
  static int error_number(const std::function<void()>& action) {
    try {
      action();
    } catch (const FileError& error) {
      return error.error_number();
    }
    return 0;
  }

  const EncodingsDocument document_ = parse(kFile100, "file");
  fs::path directory_;
};

TEST_F(EncodingsFile, IsWrittenAndReadBack) {
  write_file(path("m.encodings"), document_, "1.0.0");
  EXPECT_EQ(read_file(path("m.encodings")), document_);
  EXPECT_EQ(content("m.encodings"), serialize(document_, "1.0.0"));
  EXPECT_EQ(names(), std::vector<std::string>{"m.encodings"});
}

// A reader that looks at any time sees one whole file or the other, whatever the version written;
// and a writer that is killed leaves one of them.
TEST_F(EncodingsFile, IsWholeWheneverAWriterIsKilled) {
  std::vector<EncodingsDocument> documents;
  for (const std::string& file : testing::kAllFiles) {
    documents.push_back(parse(file, "file"));
  }
  write_file(path("m"), documents.front(), "0.6.1");
  constexpr int kWriters = 20;
  for (int round = 0; round < kWriters; ++round) {
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      for (size_t count = 0;; ++count) {
        const EncodingsDocument& document = documents[count % documents.size()];
        write_file(path("m"), document, document.version);
      }
    }
    for (int look = 0; look < 5; ++look) {
      const EncodingsDocument seen = read_file(path("m"));
      EXPECT_NE(std::find(documents.begin(), documents.end(), seen), documents.end());
    }
    ::usleep(1000U * static_cast<unsigned>(1 + round % 5));
    ASSERT_EQ(::kill(child, SIGKILL), 0);
    ASSERT_EQ(::waitpid(child, nullptr, 0), child);
    const EncodingsDocument left = read_file(path("m"));
    EXPECT_NE(std::find(documents.begin(), documents.end(), left), documents.end());
  }
}

TEST_F(EncodingsFile, IsReplacedWithItsModeKept) {
  write_file(path("m"), parse(kFile061, "file"), "0.6.1");
  ASSERT_EQ(::chmod(path("m").c_str(), 0640), 0);
  write_file(path("m"), document_, "1.0.0");
  EXPECT_EQ(read_file(path("m")), document_);
  struct stat status{};
  ASSERT_EQ(::stat(path("m").c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 07777U, 0640U);
}

TEST_F(EncodingsFile, FollowsSymbolicLinks) {
  fs::create_directory(directory_ / "real");
  fs::create_symlink(directory_ / "real" / "m", directory_ / "link");
  write_file(path("link"), document_, "1.0.0");
  EXPECT_TRUE(fs::is_symlink(directory_ / "link"));
  EXPECT_EQ(read_file(path("real/m")), document_);
  fs::create_symlink("loop", directory_ / "loop");
  EXPECT_EQ(error_number([&] { write_file(path("loop"), document_, "1.0.0"); }), ELOOP);
}

TEST_F(EncodingsFile, LeavesTheOldOneWhenTheDocumentIsWrong) {
  write_file(path("m"), document_, "1.0.0");
  const std::string before = content("m");
  EncodingsDocument wrong = document_;
  wrong.param_encodings[0].scale[0] = -1.0;
  EXPECT_THROW(write_file(path("m"), wrong, "1.0.0"), FormatError);
  EXPECT_THROW(write_file(path("m"), document_, "0.6.1"), UnsupportedError);
  EXPECT_EQ(content("m"), before);
  EXPECT_EQ(names(), std::vector<std::string>{"m"});
}

// A limit on file sizes makes write() fail half way, as a full disk does.
TEST_F(EncodingsFile, LeavesTheOldOneWhenTheDiskIsFull) {
  write_file(path("m"), document_, "1.0.0");
  const std::string before = content("m");
  EncodingsDocument large;
  TensorEncoding weight;
  weight.name = "conv.weight";
  weight.is_signed = weight.is_symmetric = true;
  weight.scale.assign(10000, 0.0123);
  weight.offset.assign(10000, 0);
  weight.shape = {10000};
  weight.channel_axis = 0;
  large.param_encodings = {weight};
  struct rlimit old_limit{};
  ASSERT_EQ(::getrlimit(RLIMIT_FSIZE, &old_limit), 0);
  const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
  struct rlimit small = old_limit;
  small.rlim_cur = 4096;
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &small), 0);
  std::vector<int> codes;
  for (const std::string& version : writable_versions()) {
    codes.push_back(error_number([&] { write_file(path("m"), large, version); }));
  }
  ASSERT_EQ(::setrlimit(RLIMIT_FSIZE, &old_limit), 0);
  std::signal(SIGXFSZ, old_handler);
  EXPECT_EQ(codes, std::vector<int>(4, EFBIG));
  EXPECT_EQ(content("m"), before);
  EXPECT_EQ(names(), std::vector<std::string>{"m"});
}

TEST_F(EncodingsFile, ReportsTheSystemsErrors) {
  EXPECT_EQ(error_number([&] { read_file(path("missing")); }), ENOENT);
  EXPECT_EQ(error_number([&] { read_file(directory_.string()); }), EISDIR);
  EXPECT_EQ(error_number([&] { read_file(""); }), ENOENT);
  EXPECT_EQ(error_number([&] { read_file(std::string("a\0b", 3)); }), EINVAL);
  ASSERT_EQ(::mkfifo(path("pipe").c_str(), 0600), 0);
  EXPECT_EQ(error_number([&] { read_file(path("pipe")); }), EINVAL);
  EXPECT_EQ(error_number([&] { write_file(path("no/such/m"), document_, "1.0.0"); }), ENOENT);
  EXPECT_EQ(error_number([&] { write_file(directory_.string(), document_, "1.0.0"); }), EISDIR);
  EXPECT_EQ(names(), std::vector<std::string>{"pipe"});
}

TEST_F(EncodingsFile, IsNotReadWhenItIsTooLarge) {
  write_file(path("m"), document_, "1.0.0");
  Limits limits;
  limits.max_bytes = 100;
  try {
    read_file(path("m"), limits);
    FAIL();
  } catch (const FormatError& error) {
    EXPECT_NE(error.reason().find("more than the limit of 100 bytes"), std::string::npos);
    EXPECT_EQ(error.source(), path("m"));
  }
}

}  // namespace
}  // namespace aimet::encodings
