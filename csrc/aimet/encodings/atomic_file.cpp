// POSIX file access: errors keep their errno, writes are all or nothing.

#include "aimet/encodings/atomic_file.h"

#include "aimet/encodings/errors.h"

#include <fmt/format.h>

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

namespace aimet::encodings {
namespace {

constexpr mode_t kPermissionBits = 07777;
constexpr mode_t kDefaultMode = 0666;  // reduced by the process's umask

class FileDescriptor {
 public:
  explicit FileDescriptor(int descriptor) : descriptor_(descriptor) {}
  ~FileDescriptor() { close(); }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;

  int get() const { return descriptor_; }
  bool close() {
    const int descriptor = descriptor_;
    descriptor_ = -1;
    return descriptor < 0 || ::close(descriptor) == 0;
  }

 private:
  int descriptor_;
};

// Removes the temporary file unless it was renamed.
class TemporaryFile {
 public:
  explicit TemporaryFile(std::string path) : path_(std::move(path)) {}
  ~TemporaryFile() {
    if (!path_.empty()) {
      ::unlink(path_.c_str());
    }
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void release() { path_.clear(); }

 private:
  std::string path_;
};

void expect_usable_path(const std::string& path) {
  if (path.empty()) {
    throw FileError("\"\"", "empty path", ENOENT);
  }
  if (path.find('\0') != std::string::npos) {
    throw FileError(path.substr(0, path.find('\0')), "the path holds a null character", EINVAL);
  }
}

// The mode of the file at `path`, or that of a new file.
mode_t mode_for(const std::string& path, bool* is_existing) {
  struct stat status{};
  *is_existing = ::stat(path.c_str(), &status) == 0;
  return *is_existing ? status.st_mode & kPermissionBits : kDefaultMode;
}

// Where the symbolic links at `path` end; the file there need not exist yet.
std::filesystem::path follow_links(const std::string& path) {
  constexpr int kMaxLinks = 40;  // Linux's own limit
  std::filesystem::path target = path;
  std::error_code error;
  for (int count = 0; std::filesystem::is_symlink(target, error); ++count) {
    if (count == kMaxLinks) {
      throw FileError(path, "cannot follow the symbolic link", ELOOP);
    }
    const std::filesystem::path next = std::filesystem::read_symlink(target, error);
    if (error) {
      throw FileError(path, "cannot follow the symbolic link", error.value());
    }
    target = target.parent_path() / next;  // `next` alone when it is absolute
  }
  return target;
}

bool write_all(int descriptor, std::string_view content) {
  while (!content.empty()) {
    const ssize_t written = ::write(descriptor, content.data(), content.size());
    if (written < 0 && errno == EINTR) {
      continue;
    }
    if (written < 0) {
      return false;
    }
    content.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// Opens a new file beside `target`, whose name starts with a dot and ends in the process id and a
// counter. O_EXCL: never somebody else's file, never through a link.
int create_beside(const std::filesystem::path& target, mode_t mode, std::string* temporary_path) {
  constexpr int kAttempts = 1000;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    const std::filesystem::path candidate =
        target.parent_path() /
        fmt::format(".{}.{}.{}.tmp", target.filename().string(), ::getpid(), attempt);
    const int descriptor = ::open(candidate.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, mode);
    if (descriptor >= 0 || errno != EEXIST) {
      *temporary_path = candidate.string();
      return descriptor;
    }
  }
  return -1;
}

}  // namespace

std::string read_regular_file(const std::string& path, int64_t max_bytes) {
  expect_usable_path(path);
  // O_NONBLOCK: opening a pipe must not wait for its writer.
  const FileDescriptor file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    throw FileError(path, "cannot open", errno);
  }
  struct stat status{};
  if (::fstat(file.get(), &status) != 0) {
    throw FileError(path, "cannot read", errno);
  }
  if (!S_ISREG(status.st_mode)) {
    throw FileError(path, "not a regular file", S_ISDIR(status.st_mode) ? EISDIR : EINVAL);
  }
  if (status.st_size > max_bytes) {
    throw FormatError(
        path, "",
        fmt::format("{} bytes are more than the limit of {} bytes", status.st_size, max_bytes));
  }
  // A file that shrinks or grows meanwhile gives what was read; the parser judges it.
  std::string content(static_cast<size_t>(status.st_size), '\0');
  size_t size = 0;
  while (size < content.size()) {
    const ssize_t count = ::read(file.get(), content.data() + size, content.size() - size);
    if (count < 0 && errno == EINTR) {
      continue;
    }
    if (count < 0) {
      throw FileError(path, "cannot read", errno);
    }
    if (count == 0) {
      break;
    }
    size += static_cast<size_t>(count);
  }
  content.resize(size);
  return content;
}

void write_file_atomically(const std::string& path, std::string_view content) {
  expect_usable_path(path);
  const std::filesystem::path target = follow_links(path);
  std::error_code ignored;
  if (std::filesystem::is_directory(target, ignored)) {
    throw FileError(path, "cannot write", EISDIR);
  }

  bool is_existing = false;
  const mode_t mode = mode_for(target.string(), &is_existing);
  std::string temporary_path;
  FileDescriptor file(create_beside(target, mode, &temporary_path));
  if (file.get() < 0) {
    throw FileError(path, "cannot create a temporary file beside it", errno);
  }
  TemporaryFile temporary(temporary_path);
  // open() applied the umask; a file that is replaced keeps its own mode.
  const bool is_written = (!is_existing || ::fchmod(file.get(), mode) == 0) &&
                          write_all(file.get(), content) && ::fsync(file.get()) == 0;
  if (!is_written || !file.close()) {
    throw FileError(path, "cannot write", errno);
  }
  if (::rename(temporary_path.c_str(), target.c_str()) != 0) {
    throw FileError(path, "cannot replace the file", errno);
  }
  temporary.release();

  // Makes the rename durable. A file system that cannot flush directories has done its part.
  const std::filesystem::path directory =
      target.has_parent_path() ? target.parent_path() : std::filesystem::path(".");
  const FileDescriptor directory_file(
      ::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (directory_file.get() >= 0) {
    ::fsync(directory_file.get());
  }
}

}  // namespace aimet::encodings
