"""What holds this project and its libraries together: mended imports, lazy ones, gin's names."""
