package android.content.res;

import java.io.File;
import java.io.IOException;

/** An app's files: here, those in the folder that the program was started in. */
public final class AssetManager {
    public AssetFileDescriptor openFd(String name) throws IOException {
        return new AssetFileDescriptor(new File(name));
    }
}
