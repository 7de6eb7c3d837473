import android.content.Context;
import android.graphics.Bitmap;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import org.tensorflow.lite.Interpreter;

/** Arguments: package, width, file of a photo, file for what the model was handed; four a photo. Prints the answers. */
public final class Main {
    public static void main(String[] arguments) throws Exception {
        List<String> words = List.of(arguments);
        for (int at = 0; at < words.size(); at += 4) {
            Class<?> type = Class.forName(words.get(at) + ".InstarModel");
            Object model = type.getConstructor(Context.class).newInstance(new Context());
            byte[] data = Files.readAllBytes(Path.of(words.get(at + 2)));
            int[] argb = new int[data.length / 4];
            ByteBuffer.wrap(data).asIntBuffer().get(argb);
            Bitmap photo = new Bitmap(argb, Integer.parseInt(words.get(at + 1)));
            Object answer = type.getMethod("answer", Bitmap.class).invoke(model, photo);
            System.out.println(
                answer instanceof float[] numbers ? Arrays.toString(numbers) : Arrays.toString((byte[]) answer));
            Files.write(Path.of(words.get(at + 3)), Interpreter.handed);
        }
    }
}
