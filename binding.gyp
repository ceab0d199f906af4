# Builds the native readers against the GStreamer that is installed; without its headers only what needs none of it.
# Plugins are shared libraries in folders of their own: GStreamer scans GST_PLUGIN_PATH recursively and loads every .so,
# and gyp would give loadable modules the extension .node. Use build/Release/gstreamer-1.0 as the path, nothing above it.
{
  'variables': {
    'has_gstreamer%': '<!(pkg-config --exists gstreamer-app-1.0 && echo 1 || echo 0)',
  },
  'target_defaults': {
    'defines': [
      'SEEKCACHE_VERSION="<!(node -p "require(\'./package.json\').version")"',
    ],
    'cflags!': [ '-std=gnu++17' ],
    'cflags_cc!': [ '-std=gnu++17', '-std=gnu++20' ],
    'cflags': [ '-fPIC', '-fvisibility=hidden', '-Wall', '-Wextra' ],
    'cflags_cc': [
      '-std=c++20', '-fno-exceptions', '-fno-rtti', '-fvisibility=hidden', '-fvisibility-inlines-hidden',
      '<!@(pkg-config --cflags nlohmann_json 2>/dev/null || true)',
    ],
    'xcode_settings': {
      'CLANG_CXX_LANGUAGE_STANDARD': 'c++20',
      'GCC_ENABLE_CPP_EXCEPTIONS': 'NO',
      'GCC_ENABLE_CPP_RTTI': 'NO',
      'GCC_SYMBOLS_PRIVATE_EXTERN': 'YES',
      'MACOSX_DEPLOYMENT_TARGET': '11.0',
      'OTHER_CFLAGS': [ '<!@(pkg-config --cflags nlohmann_json 2>/dev/null || true)' ],
    },
  },
  'targets': [
    {
      'target_name': 'seekcache_client',
      'type': 'static_library',
      'sources': [
        'native/client/cache-reader.cc',
        'native/client/connection.cc',
        'native/client/framer.cc',
        'native/client/host-launch.cc',
        'native/client/host-link.cc',
        'native/client/host-place.cc',
        'native/client/located.cc',
        'native/client/protocol.cc',
        'native/client/runs.cc',
        'native/client/wait.cc',
      ],
      'direct_dependent_settings': {
        'conditions': [ [ 'OS=="linux"', { 'libraries': [ '-ldl', '-pthread' ] } ] ],
      },
    },
    # node-gyp-build takes the first addon of a package, by name, for the package's: that one is `seekcache`.
    {
      'target_name': 'seekcache_page_cache',
      'sources': [ 'native/files/page-cache.cc' ],
      'include_dirs': [ '<!(node -p "require(\'node-addon-api\').include_dir")' ],
      'defines': [ 'NAPI_DISABLE_CPP_EXCEPTIONS', 'NAPI_VERSION=8' ],
    },
    {
      'target_name': 'client-test',
      'type': 'executable',
      'dependencies': [ 'seekcache_client' ],
      'sources': [ 'test/native/client-test.cc' ],
    },
    {
      'target_name': 'client-hammer',
      'type': 'executable',
      'dependencies': [ 'seekcache_client' ],
      'sources': [ 'test/native/client-hammer.cc' ],
    },
    {
      'target_name': 'protocol-fuzz',
      'type': 'executable',
      'dependencies': [ 'seekcache_client' ],
      'sources': [ 'test/native/protocol-fuzz.cc' ],
    },
    {
      'target_name': 'client-read',
      'type': 'executable',
      'dependencies': [ 'seekcache_client' ],
      'sources': [ 'test/native/client-read.cc' ],
    },
  ],
  'conditions': [
    [ 'has_gstreamer==1', {
      'targets': [
        {
          'target_name': 'seekcache_element',
          'type': 'static_library',
          'dependencies': [ 'seekcache_client' ],
          'export_dependent_settings': [ 'seekcache_client' ],
          'sources': [
            'native/gst/answers.cc',
            'native/gst/failure.cc',
            'native/gst/properties.cc',
            'native/gst/seekcachesrc.cc',
            'native/gst/settings.cc',
          ],
          'cflags': [ '<!@(pkg-config --cflags gstreamer-app-1.0)' ],
          'xcode_settings': { 'OTHER_CFLAGS': [ '<!@(pkg-config --cflags gstreamer-app-1.0)' ] },
          'direct_dependent_settings': {
            'cflags': [ '<!@(pkg-config --cflags gstreamer-app-1.0)' ],
            'xcode_settings': { 'OTHER_CFLAGS': [ '<!@(pkg-config --cflags gstreamer-app-1.0)' ] },
            'libraries': [ '<!@(pkg-config --libs gstreamer-app-1.0)' ],
          },
        },
        {
          'target_name': 'gstseekcache',
          'type': 'shared_library',
          'product_dir': '<(PRODUCT_DIR)/gstreamer-1.0',
          'product_prefix': 'lib',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'native/gst/plugin.cc' ],
        },
        {
          'target_name': 'seekcache',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'native/addon/addon.cc' ],
          'include_dirs': [ '<!(node -p "require(\'node-addon-api\').include_dir")' ],
          'defines': [ 'NAPI_DISABLE_CPP_EXCEPTIONS', 'NAPI_VERSION=8' ],
          # GObject types cannot be unloaded, and a worker that ends closes its addons.
          'conditions': [ [ 'OS=="linux"', { 'ldflags': [ '-Wl,-z,nodelete' ] } ] ],
        },
        {
          'target_name': 'seekcache-player',
          'type': 'executable',
          'sources': [
            'native/player/main.cc',
            'native/player/options.cc',
            'native/player/player.cc',
            'native/player/report.cc',
          ],
          'cflags': [ '<!@(pkg-config --cflags gstreamer-1.0)' ],
          'xcode_settings': { 'OTHER_CFLAGS': [ '<!@(pkg-config --cflags gstreamer-1.0)' ] },
          'libraries': [ '<!@(pkg-config --libs gstreamer-1.0)' ],
        },
        {
          'target_name': 'element-hammer',
          'type': 'executable',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'test/native/element-hammer.cc' ],
        },
        {
          'target_name': 'element-reads',
          'type': 'executable',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'test/native/element-reads.cc' ],
        },
        {
          'target_name': 'element-cancel',
          'type': 'executable',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'test/native/element-cancel.cc' ],
        },
        {
          'target_name': 'element-facts',
          'type': 'executable',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'test/native/element-facts.cc' ],
        },
        {
          'target_name': 'element-cycles',
          'type': 'executable',
          'dependencies': [ 'seekcache_element' ],
          'sources': [ 'test/native/element-cycles.cc' ],
        },
      ],
    }],
  ],
}
