// student-kd in C++ with sherpa-onnx, through its C interface: the same for every compiler and standard library (the
// C++ one of the Python wheel wants -D_GLIBCXX_USE_CXX11_ABI=0). In $sherpa are include/ and lib/, of the wheel
// (pip install sherpa-onnx) or of your own build (cmake --install build --prefix FOLDER, with BUILD_SHARED_LIBS=ON).
//
//     sherpa=$(python -c 'import os, sherpa_onnx; print(os.path.dirname(sherpa_onnx.__file__))')
//     g++ -std=c++17 c_plus_plus.cc -I"$sherpa/include" -L"$sherpa/lib" -Wl,-rpath,"$sherpa/lib" -lsherpa-onnx-c-api -lonnxruntime -o recognize
//     ./recognize BUNDLE recording.wav
#include <cstdint>
#include <iostream>
#include <string>
#include <vector>

#include "sherpa-onnx/c-api/c-api.h"

int main(int argc, char **argv) {
  if (argc != 3) {
    std::cerr << "usage: " << argv[0] << " BUNDLE recording.wav\n";
    return 2;
  }
  const std::string model = std::string(argv[1]) + "/model.int8.onnx", tokens = std::string(argv[1]) + "/tokens.txt";
  SherpaOnnxOnlineRecognizerConfig config = {};  // what stays 0 is the client's default
  config.model_config.zipformer2_ctc.model = model.c_str();
  config.model_config.tokens = tokens.c_str();
  config.model_config.num_threads = 1;
  const SherpaOnnxWave *wave = SherpaOnnxReadWave(argv[2]);  // mono, 16 bits; the client resamples
  const SherpaOnnxOnlineRecognizer *recognizer = wave ? SherpaOnnxCreateOnlineRecognizer(&config) : nullptr;
  if (!recognizer) return 1;  // the client has said why

  const SherpaOnnxOnlineStream *stream = SherpaOnnxCreateOnlineStream(recognizer);
  SherpaOnnxOnlineStreamAcceptWaveform(stream, wave->sample_rate, wave->samples, wave->num_samples);
  // 720 ms of silence complete the last chunk and the last word.
  const std::vector<float> silence(720 * static_cast<int64_t>(wave->sample_rate) / 1000);
  SherpaOnnxOnlineStreamAcceptWaveform(stream, wave->sample_rate, silence.data(), static_cast<int32_t>(silence.size()));
  SherpaOnnxOnlineStreamInputFinished(stream);
  while (SherpaOnnxIsOnlineStreamReady(recognizer, stream)) SherpaOnnxDecodeOnlineStream(recognizer, stream);

  const SherpaOnnxOnlineRecognizerResult *result = SherpaOnnxGetOnlineStreamResult(recognizer, stream);
  std::cout << result->text << "\n";
  SherpaOnnxDestroyOnlineRecognizerResult(result);
  SherpaOnnxDestroyOnlineStream(stream);
  SherpaOnnxDestroyOnlineRecognizer(recognizer);
  SherpaOnnxFreeWave(wave);
}
